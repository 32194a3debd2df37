/* SPDX-License-Identifier: Apache-2.0
 *
 * What the site wants to be run when a container has ended (OCI hooks of the stage poststop): by the user, on the node,
 * when its last task has ended and before srun hears of it. The launch block that says so waits in a socket until then;
 * most launches have none. */
#ifndef FAIRLEAD_AFTER_H
#define FAIRLEAD_AFTER_H

#include <slurm/spank.h>

/* In slurmstepd, before the tasks are forked. */
void after_listen(void);

/* In the task that built the container: its launch block. */
void after_offer(int block);

/* In slurmstepd, when a task has ended: with the last one, run what a task has offered. Takes AFTER_S at most; what goes
 * wrong is told and changes nothing. */
void after_task_exit(spank_t spank);

#endif
