/* SPDX-License-Identifier: Apache-2.0
 *
 * srun's side of the step's one exchange: a listening socket that the nodes can reach, and a process of srun's that serves
 * it (engine/fairlead/run/hub.py) while the step starts. */
#ifndef FAIRLEAD_HUB_START_H
#define FAIRLEAD_HUB_START_H

#include <slurm/spank.h>

/* With the step created: if its nodes have something to tell, listen, start the hub, and export to the step where it is.
 * A line for the user, or NULL. Where this host has no engine nothing is exported, and each node goes its own way. */
const char *hub_open(spank_t spank, const char *prefix, const char *reference);

/* What is wrong with the report that was asked for: a line for the user, or NULL. */
const char *hub_report_problem(void);

#endif
