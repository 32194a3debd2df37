/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAIRLEAD_STEP_END_H
#define FAIRLEAD_STEP_END_H

#include <slurm/spank.h>
#include <stdint.h>

/* End a step that failed on this node, if it has others; a step of one node ends by itself. */
void step_end(spank_t spank, uint32_t nodes, uint32_t job, uint32_t number);

#endif
