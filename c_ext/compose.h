/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAIRLEAD_COMPOSE_H
#define FAIRLEAD_COMPOSE_H

#include <stddef.h>

#include "mountpoint.h"
#include "report.h"

/* Make the calling process's (fresh, own) mount namespace into the container's: execute the compose part of a launch
 * block and pivot into the new root. The caller was moved by namespace_create(). mounts: the detached mounts that the
 * block's root calls "mount:N"; they stay the caller's to close. 0 or -errno with a report; after a failure the process
 * must end, since its mount namespace is half made. */
int compose_root(const void *block, size_t size, const int *mounts, unsigned int mount_count, struct report *report);

/* The same in two parts, for who has something to do in between (hooks): build the root, at a path that this namespace
 * has beside the host's, and pivot into it. changes: somebody will write to the root before it is entered. A container
 * that is not entered is closed. */
int compose_build(const void *block, size_t size, const int *mounts, unsigned int mount_count, int changes,
		  struct container *ret, struct report *report);
int compose_enter(const void *block, size_t size, struct container *container, struct report *report);
void compose_close(struct container *container);

#endif
