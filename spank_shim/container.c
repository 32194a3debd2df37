/* SPDX-License-Identifier: Apache-2.0
 *
 * A kept plan answers only where everything is as it was; every other way leads to the engine, which has the right
 * words for whatever is wrong. So nothing here reports an error. */
#include "container.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker.h"
#include "gate.h"
#include "plan_build.h"
#include "plan_cache.h"
#include "plan_key.h"

/* Facts on which no plan depends: they differ in every step. */
static const char *const of_the_step[] = { "jobid=", "stepid=", "nnodes=", "nodeid=", "ntasks=", "local_tasks=",
					    "gate=" };

static const char *next_fact(const struct engine_request *request, const char *fact)
{
	fact = fact ? fact + strlen(fact) + 1 : request->facts;
	return fact < request->facts + request->facts_size ? fact : NULL;
}

static int begins(const char *text, const char *with)
{
	return strncmp(text, with, strlen(with)) == 0;
}

/* A tag may mean another image at every launch; what an environment file means, the engine knows. A batch script and --multi-prog are not worth a second form. */
static int may_be_kept(const struct engine_request *request)
{
	const char *fact = NULL;
	int frozen = 0;

	while ((fact = next_fact(request, fact))) {
		if (begins(fact, "script=") || begins(fact, "multi_prog="))
			return 0;
		frozen |= begins(fact, "ref=") && (strstr(fact, "@sha") || strstr(fact, "edf:") || strstr(fact, ".toml"));
	}
	return frozen && geteuid() != 0 && plan_key_wanted(request->environment);
}

static void make_key(struct engine_request *request)
{
	const char *fact = NULL;
	FILE *out = open_memstream(&request->key, &request->key_size);
	int err;

	if (!out)
		return;
	while ((fact = next_fact(request, fact))) {
		size_t i = 0;

		while (i < sizeof(of_the_step) / sizeof(*of_the_step) && !begins(fact, of_the_step[i]))
			i++;
		if (i == sizeof(of_the_step) / sizeof(*of_the_step))
			fwrite(fact, 1, strlen(fact) + 1, out);
	}
	err = plan_key_add(out, request->prefix, request->environment);
	if (fclose(out) != 0 || err) {
		free(request->key);
		request->key = NULL;
	}
}

static int is_first_node(const struct engine_request *request)
{
	const char *fact = NULL;

	while ((fact = next_fact(request, fact)))
		if (strcmp(fact, "nodeid=0") == 0)
			return 1;
	return 0;
}

/* Build from a plan that was found; 0 or -errno. Layers of the shared store, and a disk to write to, are the broker's to
 * give or to refuse: who has lost the right to an image gets no mount of it here either. */
static int use(const struct engine_request *request, const struct plan *plan, int ret_fds[CHANNEL_FDS])
{
	int fds[BROKER_MAX_LAYERS + 2] = { -1 }, count = 0, err = 0;
	char detail[256];

	if ((plan->image || plan->upper) && request->broker < 0)
		return -ENOTCONN;
	if (plan->image)
		count = broker_mount(request->broker, plan->image, fds, detail, sizeof(detail));
	if (count < 0)
		return count;
	if (plan->injection) {
		fds[count] = broker_injection(request->broker, plan->image, plan->injection, detail, sizeof(detail));
		err = fds[count] < 0 ? fds[count] : 0;
		count += !err;
	}
	if (!err && plan->upper) {
		fds[count] = broker_upper(request->broker, plan->upper, detail, sizeof(detail));
		err = fds[count] < 0 ? fds[count] : 0;
		count += !err;
	}
	if (!err)
		err = plan_build(plan, fds, (unsigned int)count, ret_fds);
	while (count)
		close(fds[--count]);
	return err;
}

/* 1 when the container stands; the message's text is then what must be the same on the step's other nodes. */
static int replay(const struct engine_request *request, struct channel_message *ret_message, int ret_fds[CHANNEL_FDS])
{
	char directory[PLAN_DIRECTORY_SIZE];
	struct timespec began;
	struct plan plan;
	int err;

	plan_cache_directory(directory);
	if (plan_cache_find(directory, request->key, request->key_size, request->environment, &plan) < 0)
		return 0;
	clock_gettime(CLOCK_MONOTONIC, &began);
	err = use(request, &plan, ret_fds);
	gate_phase(request->gate, "mount", &began);
	snprintf(ret_message->text, sizeof(ret_message->text), "%s", plan.same ? plan.same : "");
	if (err)
		plan_cache_forget(directory, request->key, request->key_size);
	else if (is_first_node(request))
		plan_cache_tell(&plan, STDERR_FILENO);
	plan_cache_release(&plan);
	return !err;
}

void container_build(struct engine_request *request, struct channel_message *ret_message, int ret_fds[CHANNEL_FDS])
{
	request->key = NULL;
	if (may_be_kept(request))
		make_key(request);
	*ret_message = (struct channel_message){ 0 };
	request->kept = request->key && replay(request, ret_message, ret_fds);
	if (!request->kept)
		engine_run(request, ret_message, ret_fds);
	free(request->key);
	request->key = NULL;
}
