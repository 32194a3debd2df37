/* SPDX-License-Identifier: Apache-2.0
 *
 * slurmstepd's side. Errors before task_init are remembered and reported there: a failing init or user_init hook
 * drains the node (slurm.md section 3). Every task that must not run ends with _exit: 125, or 126 and 127 for a
 * command that the image cannot run or does not have. */
#ifndef FAIRLEAD_REMOTE_H
#define FAIRLEAD_REMOTE_H

#include <slurm/spank.h>

/* root, in slurmstepd: register the options, remember the plugstack arguments. */
void remote_init(spank_t spank, int argc, char *argv[]);

/* root, in slurmstepd, with the options known: start the broker of the node's shared store for this step. */
void remote_start_broker(spank_t spank);

/* The job's user (effective), before the tasks are forked: what they share. */
void remote_user_init(spank_t spank);

/* The task, as the user in all ids: get the container, and replace the command by fairlead-enter. */
void remote_task_init(spank_t spank);

/* root, in slurmstepd, when the step has ended: what is logged of it. */
void remote_exit(void);

#endif
