/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAIRLEAD_BROKER_MOUNT_H
#define FAIRLEAD_BROKER_MOUNT_H

#include <sys/types.h>

#include "broker.h"

enum { MOUNT_MAX_FILES = 1 + BROKER_MAX_LAYERS };

/* A user namespace that maps the image's root, 0:0, to uid:gid: what an idmapped mount is made with. A descriptor or
 * -errno. */
int mount_idmap(uid_t uid, gid_t gid);

/* A detached mount of the EROFS image behind the first of fds, the others of which are its devices, in their order:
 * read-only, nosuid, nodev, idmapped. By the files themselves since Linux 6.12, else by loop devices that vanish with the
 * mount. A descriptor or -errno; -ENODEV: no EROFS in this kernel. */
int mount_image(const int *fds, unsigned int count, int idmap);

#endif
