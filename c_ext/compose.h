/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAIRLEAD_COMPOSE_H
#define FAIRLEAD_COMPOSE_H

#include <stddef.h>

#include "report.h"

/* Make the calling process's (fresh, own) mount namespace into the container's: execute the compose part of a launch
 * block and pivot into the new root. The caller was moved by namespace_create(). mounts: the detached mounts that the
 * block's root calls "mount:N"; they stay the caller's to close. 0 or -errno with a report; after a failure the process
 * must end, since its mount namespace is half made. */
int compose_root(const void *block, size_t size, const int *mounts, unsigned int mount_count, struct report *report);

#endif
