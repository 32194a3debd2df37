/* SPDX-License-Identifier: Apache-2.0
 *
 * What the engine, or a kept plan, is asked for: the facts of this step on this node. */
#ifndef FAIRLEAD_STEP_REQUEST_H
#define FAIRLEAD_STEP_REQUEST_H

#include <slurm/spank.h>
#include <stdint.h>

#include "engine.h"
#include "options.h"

struct step_facts {
	uint32_t job, step, nodes, node, local_tasks, tasks;
	char cwd[OPTION_MAX];
	int multi_prog;
	const char *script;  /* of a batch step */
	const char *command; /* argv[0] without its seal */
};

/* In a task: what Slurm says of the step, and its words, of which the first is opened. Refuses the task where Slurm says
 * nothing. */
void step_request_read(spank_t spank, struct step_facts *ret, char ***ret_argv);

/* Build the container: fills message and fds (engine.h). The request brings prefix, broker, gate and the job's
 * environment; its engine is still to be reaped. */
void step_request_build(const struct step_facts *facts, struct engine_request *request,
			struct channel_message *ret_message, int ret_fds[CHANNEL_FDS]);

#endif
