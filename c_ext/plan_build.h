/* SPDX-License-Identifier: Apache-2.0
 *
 * Builds the container of a cached plan in a child, since a process that has unshared cannot go back and leave the work
 * to the engine. The child ends when it has sent the descriptors, as the engine does. */
#ifndef FAIRLEAD_PLAN_BUILD_H
#define FAIRLEAD_PLAN_BUILD_H

#include "channel.h"
#include "plan_cache.h"

/* mounts: the detached mounts that the plan's root calls "mount:N". 0 with descriptors, close-on-exec, or -errno: the
 * container cannot be built from this plan, and nothing is left of the attempt. */
int plan_build(const struct plan *plan, const int *mounts, unsigned int mount_count, int ret_fds[CHANNEL_FDS]);

#endif
