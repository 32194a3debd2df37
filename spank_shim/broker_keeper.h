/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAIRLEAD_BROKER_KEEPER_H
#define FAIRLEAD_BROKER_KEEPER_H

#include "broker_grant.h"

/* What a storekeeper looks into: an image that its user was granted. */
struct keeper_image {
	const char *name; /* HEX; empty: none */
	const int *mounts; /* of its layers, idmapped to the service account */
	unsigned int count;
};

/* Start a storekeeper (PREFIX/libexec/fairlead/keeper.py) as the service account, with the store's path, the job's user
 * and its number, and an image's name and how many mounts as arguments, one end of a new connection as descriptor 3 and the image's mounts as
 * those that follow. Its pid, with the other end in ret_socket; or -errno. */
int keeper_start(const struct site *site, const char *prefix, const char *store, const struct keeper_image *image,
		 int *ret_socket);

/* End it: TERM, then KILL two seconds later; returns when it is gone. What one leaves that did not end well goes at
 * once: no later one may come for a long time. */
void keeper_end(const struct site *site, int pid);

#endif
