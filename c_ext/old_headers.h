/* SPDX-License-Identifier: Apache-2.0
 *
 * What the kernel has (docs/admin.md says from when) and the headers of an old C library do not: the plugin is built on
 * Debian 11 (C library 2.31, headers of Linux 5.10) to run everywhere. System calls have the same number on every
 * architecture since 5.1. Include it before any other header that names mounts: old ones define the MS_ flags twice and
 * bear only this order. */
#ifndef FAIRLEAD_OLD_HEADERS_H
#define FAIRLEAD_OLD_HEADERS_H

#include <sys/mount.h>

#include <linux/mount.h>
#include <linux/types.h>
#include <sys/syscall.h>

#ifndef SYS_close_range
#define SYS_close_range 436 /* Linux 5.9 */
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434 /* 5.3 */
#endif
#ifndef SYS_openat2
#define SYS_openat2 437 /* 5.6 */
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442 /* 5.12 */
#endif

#ifndef MOUNT_ATTR_SIZE_VER0 /* 5.12 */
#define MOUNT_ATTR_SIZE_VER0 32
struct mount_attr {
	__u64 attr_set;
	__u64 attr_clr;
	__u64 propagation;
	__u64 userns_fd;
};
#endif
#ifndef MOUNT_ATTR_IDMAP
#define MOUNT_ATTR_IDMAP 0x00100000
#endif

#endif
