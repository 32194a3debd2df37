/* SPDX-License-Identifier: Apache-2.0
 *
 * Where a mount goes: the mount point inside the root under construction, made when it is missing. */
#ifndef FAIRLEAD_TARGET_H
#define FAIRLEAD_TARGET_H

#include <stddef.h>
#include <stdint.h>

/* The root under construction, and the file systems of our own in which mount points may be made. */
struct container {
	int root;
	int stage;
	uint64_t devices[8];
	size_t device_count;
};

/* Allow mount points to be made on the file system of a descriptor: the root's overlay, a tmpfs of ours. */
void target_may_create_on(struct container *container, int fd);

/* The directory of a path, made if it is missing, and the path's last name (points into path); or -errno. */
int target_open_parent(const struct container *container, const char *path, const char **ret_name);

/* The mount point at path, a directory or an empty file as is_dir says; flags: TARGET_STRICT. An O_PATH descriptor or
 * -errno: -EXDEV when it would have to be made in a directory of the host. */
int target_open(const struct container *container, const char *path, int is_dir, uint32_t flags);

#endif
