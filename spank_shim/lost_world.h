/* SPDX-License-Identifier: Apache-2.0
 *
 * A rank that lost its MPI world ends with 125 (c_ext/world), and others of the step may wait for it for ever. It says so
 * on a socket of slurmstepd's, so that an application's own 125 is never taken for it; then the step is ended, once. */
#ifndef FAIRLEAD_LOST_WORLD_H
#define FAIRLEAD_LOST_WORLD_H

#include <slurm/spank.h>

/* Before the tasks are forked; without a socket nothing is heard, and the step goes on as Slurm decides. */
void lost_world_listen(spank_t spank);

/* root, in slurmstepd, for every task that has ended; neither waits nor fails. */
void lost_world_task_exit(spank_t spank);

#endif
