/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAIRLEAD_STEP_END_H
#define FAIRLEAD_STEP_END_H

#include <slurm/spank.h>
#include <stdint.h>
#include <sys/types.h>

/* End a step that failed on this node, if it has others; a step of one node ends by itself. */
void step_end(spank_t spank, uint32_t nodes, uint32_t job, uint32_t number);

/* The same from slurmstepd itself, whatever the number of nodes, without waiting: as the user, but with nothing of the
 * user's environment, since this process is not among those that the step's limits hold. */
void step_end_by_daemon(uid_t uid, gid_t gid, uint32_t nodes, uint32_t job, uint32_t number);

#endif
