/* SPDX-License-Identifier: Apache-2.0
 *
 * The step's container on this node: from a plan that was kept, else by the engine. */
#ifndef FAIRLEAD_CONTAINER_H
#define FAIRLEAD_CONTAINER_H

#include "engine.h"

/* Fill message and fds as engine_run() does, if possible without starting it. The request's key is set here. */
void container_build(struct engine_request *request, struct channel_message *ret_message, int ret_fds[CHANNEL_FDS]);

#endif
