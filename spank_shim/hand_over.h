/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAIRLEAD_HAND_OVER_H
#define FAIRLEAD_HAND_OVER_H

#include <slurm/spank.h>

#include "channel.h"
#include "step_request.h"

/* In a task, with the container's descriptors: have slurmstepd execute fairlead-enter in the place of the command. */
void hand_over(spank_t spank, const struct step_facts *facts, char **argv, int fds[CHANNEL_FDS]);

#endif
