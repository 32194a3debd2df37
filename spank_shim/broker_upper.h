/* SPDX-License-Identifier: Apache-2.0
 *
 * What a container may write to, on the node's disk: an ext4 of its own in a file of its own, mounted by a loop device.
 *
 *   - The file has no name from the first moment on (O_TMPFILE), and the loop device clears itself: whatever is killed
 *     when, nothing is left.
 *   - Its room is reserved before the container runs, as the service account, whose is the store: a full disk is an
 *     error now, not EIO in the middle of a job.
 *   - The kernel mounts as root what mke2fs made of two numbers and two ids. No user, and no process but this one, ever
 *     has the file open. */
#ifndef FAIRLEAD_BROKER_UPPER_H
#define FAIRLEAD_BROKER_UPPER_H

#include "broker_grant.h"

struct upper {
	int device;    /* the loop device, -1: not made */
	char path[32]; /* its path */
};

/* Make the file system, whose root directory is the job's user's. 0 or -errno with detail. */
int upper_make(const struct site *site, uint64_t bytes, struct upper *ret, char *ret_detail, unsigned int size);

/* A detached mount of it: nosuid, nodev. Asked again, another mount of the same. A descriptor or -errno. */
int upper_mount(const struct upper *upper);

#endif
