/* SPDX-License-Identifier: Apache-2.0
 *
 * Where a mount goes: the mount point inside the root under construction, made when it is missing. */
#ifndef FAIRLEAD_MOUNTPOINT_H
#define FAIRLEAD_MOUNTPOINT_H

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
void mountpoint_allow(struct container *container, int fd);

/* The directory of a path, made if it is missing, and the path's last name (points into path); or -errno. */
int mountpoint_parent(const struct container *container, const char *path, const char **ret_name);

/* The mount point at path, a directory or an empty file as is_dir says; flags: TARGET_STRICT. An O_PATH descriptor or
 * -errno: -EXDEV when it would have to be made in a directory of the host. */
int mountpoint_open(const struct container *container, const char *path, int is_dir, uint32_t flags);

#endif
