/* SPDX-License-Identifier: Apache-2.0
 *
 * The step's way to the broker (broker_main.c), where the node has a shared store: slurmstepd starts one, as root, for
 * each step that wants a container; the elected task uses it and says when it is done. */
#ifndef FAIRLEAD_BROKER_START_H
#define FAIRLEAD_BROKER_START_H

#include <sys/types.h>

struct broker_request_for {
	const char *store; /* its directory */
	const char *prefix;
	uid_t uid;
	gid_t gid;
	unsigned int job;
	const char *upper_max; /* how much a container may be given to write to on the store's disk */
	unsigned int grace_s; /* how long proven access to an image holds for a user's other jobs */
};

/* Start a broker: a connection to it, close-on-exec, or -errno. It is nobody's child, so that slurmstepd's tracking of
 * processes does not wait for it. */
int broker_start(const struct broker_request_for *request);

#endif
