/* SPDX-License-Identifier: Apache-2.0
 *
 * The step's container on this node: from a plan that was kept, else by the engine. */
#ifndef FAIRLEAD_CONTAINER_H
#define FAIRLEAD_CONTAINER_H

#include "engine.h"

/* Mounts of an image's layers, for a kept plan whose root names them: how many, in order, or -errno. */
typedef int (*container_mounts)(void *context, const char *manifest_digest, int *ret_fds, unsigned int size);

/* Fill message and fds as engine_run() does, if possible without starting it. The request's key is set here. Without
 * mounts (NULL) a plan that needs some is left to the engine. */
void container_build(struct engine_request *request, container_mounts mounts, void *context,
		     struct channel_message *ret_message, int ret_fds[CHANNEL_FDS]);

#endif
