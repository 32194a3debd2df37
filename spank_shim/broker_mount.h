/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAIRLEAD_BROKER_MOUNT_H
#define FAIRLEAD_BROKER_MOUNT_H

#include <sys/types.h>

/* A user namespace that maps the image's root, 0:0, to uid:gid: what an idmapped mount is made with. A descriptor or
 * -errno. */
int mount_idmap(uid_t uid, gid_t gid);

/* A detached mount of the EROFS image behind fd: read-only, nosuid, nodev, idmapped. By the file itself since Linux
 * 6.12, else by a loop device that vanishes with the mount. A descriptor or -errno; -ENODEV: no EROFS in this kernel. */
int mount_image(int fd, int idmap);

#endif
