/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAIRLEAD_ENGINE_H
#define FAIRLEAD_ENGINE_H

#include <stddef.h>

#include "channel.h"

#define ENGINE_MAX_ENVIRONMENT 128
#define ENGINE_PROTOCOL "2" /* of the facts (run/step.py) */

/* What the engine is told, beside the job's environment. */
struct engine_request {
	const char *prefix; /* installation: PREFIX/venv/bin/python, PREFIX/libexec/fairlead/engine.py */
	const char *facts;  /* key=value strings, each with its NUL */
	size_t facts_size;
	char **environment; /* the job's, NULL-terminated */
	int broker;         /* the step's connection to the broker, or -1 */
	int gate;           /* and to the hub in srun (gate.h), or -1 */
	int note;           /* in which it says where it works (leftovers.h), or -1 */
	char *key;          /* under which the engine may keep its plan (plan_key.h); NULL: not at all */
	size_t key_size;
	int child; /* set by engine_run() */
	int kept;  /* set by container_build(): no engine was asked */
};

/* Start the engine and wait for its answer. Fills message and fds (channel.h); a failure to start or an engine that
 * dies without an answer becomes a message with status 125. Where request->child is set the engine has answered and is
 * just ending: the caller waits for it, when nobody waits for the caller. */
void engine_run(struct engine_request *request, struct channel_message *ret_message, int ret_fds[CHANNEL_FDS]);
void engine_reap(struct engine_request *request);

/* For a signal handler: end an engine that has not answered yet; 0 when there is none. The caller of engine_run() then ends,
 * with status 125, when the engine has gone and what it left. */
int engine_stop(void);

/* The environment in which the interpreter starts, of a job's. */
void engine_environment(char *const *job, const char *ret[ENGINE_MAX_ENVIRONMENT]);

#endif
