/* SPDX-License-Identifier: Apache-2.0 */
#include "step_request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arguments.h"
#include "component.h"
#include "container.h"
#include "refuse.h"
#include "seal.h"
#include "slurm_api.h"

void step_request_read(spank_t spank, struct step_facts *ret, char ***ret_argv)
{
	char **argv = NULL, *seal;
	int argc = 0;

	memset(ret, 0, sizeof(*ret));
	spank_get_item(spank, S_JOB_ID, &ret->job);
	spank_get_item(spank, S_JOB_STEPID, &ret->step);
	spank_get_item(spank, S_JOB_NNODES, &ret->nodes);
	spank_get_item(spank, S_JOB_NODEID, &ret->node);
	spank_get_item(spank, S_JOB_LOCAL_TASK_COUNT, &ret->local_tasks);
	spank_get_item(spank, S_JOB_TOTAL_TASK_COUNT, &ret->tasks);
	ret->tasks = component_tasks(spank, ret->tasks);
	if (!getcwd(ret->cwd, sizeof(ret->cwd)) || ret->cwd[0] != '/')
		ret->cwd[0] = '\0';
	if (spank_get_item(spank, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS || argc < 1 || !argv || !argv[0])
		refuse(125, "error [slurm]: slurmstepd does not show the command to the plugin");
	seal = (char *)seal_open(argv[0]);
	if (seal)
		argv[0] = seal;
	/* The client seals either the command or the configuration's text; a batch script's words are the user's. */
	ret->multi_prog = ret->step != STEP_BATCH && !seal && argc >= 2 && strstr(argv[1], SEAL_PROGRAM) != NULL;
	ret->script = ret->step == STEP_BATCH ? argv[0] : NULL;
	ret->command = argv[0];
	*ret_argv = argv;
}

static void add(FILE *out, const char *key, const char *value)
{
	if (value && *value)
		fprintf(out, "%s=%s%c", key, value, 0);
}

static void add_number(FILE *out, const char *key, uint32_t value)
{
	fprintf(out, "%s=%u%c", key, value, 0);
}

static void write_facts(FILE *out, const struct step_facts *facts, const struct engine_request *request)
{
	char helper[OPTION_MAX + 64];

	snprintf(helper, sizeof(helper), "%s/libexec/fairlead/fairlead-enter", arguments.prefix);
	add(out, "protocol", ENGINE_PROTOCOL);
	options_facts(out, request->environment);
	add(out, "execute_entrypoint", arguments.execute_entrypoint ? "1" : NULL);
	add(out, "scope", arguments.scope);
	add(out, "cwd", facts->cwd);
	add(out, "script", facts->script);
	add(out, "command", facts->multi_prog ? NULL : facts->command);
	add(out, "multi_prog", facts->multi_prog ? "1" : NULL);
	add(out, "helper", facts->multi_prog ? helper : NULL);
	/* Of the tasks' number a plan depends on this alone: whether there is a world to lose. */
	add(out, "several", facts->tasks > 1 ? "1" : NULL);
	add(out, "broker", request->broker >= 0 ? "1" : NULL);
	add(out, "gate", request->gate >= 0 ? "1" : NULL);
	add_number(out, "jobid", facts->job);
	add_number(out, "stepid", facts->step);
	add_number(out, "nnodes", facts->nodes);
	add_number(out, "nodeid", facts->node);
	add_number(out, "ntasks", facts->tasks);
	add_number(out, "local_tasks", facts->local_tasks);
}

void step_request_build(const struct step_facts *facts, struct engine_request *request,
			struct channel_message *ret_message, int ret_fds[CHANNEL_FDS])
{
	char *text = NULL;
	FILE *out = open_memstream(&text, &request->facts_size);

	if (out)
		write_facts(out, facts, request);
	if (!out || fclose(out) != 0) {
		*ret_message = (struct channel_message){ .status = 125, .text = "error [slurm]: out of memory" };
		return;
	}
	request->facts = text;
	container_build(request, ret_message, ret_fds);
	free(text);
}
