/* SPDX-License-Identifier: Apache-2.0
 *
 * The directory sink: applies the layers of an image, in order, to one merged tree that the calling user owns.
 *
 * Whiteouts remove; owners are not applied. Modes and times of directories are restored when their layer ends, so a
 * directory of mode 000 may still get children. No step lets the kernel follow a symbolic link: they are read and
 * resolved here, inside the root, and each directory is opened by its real path with openat2(RESOLVE_BENEATH |
 * RESOLVE_NO_SYMLINKS), so a path longer than PATH_MAX works too and nothing outside the root can be named.
 *
 * The tree must not be changed by others meanwhile; if it is, the result is wrong, and still inside the root. */
#ifndef FAIRLEAD_TREE_H
#define FAIRLEAD_TREE_H

#include <stdint.h>

#include "sink.h"

/* rootfd stays the caller's and must outlive the sink. depth bounds the directories above an entry. */
int tree_open(int rootfd, uint32_t depth, struct sink **ret_sink);

/* Remove name in dirfd, with everything below it if it is a directory: no link is followed, no mount entered, modes
 * in the way are changed, any depth works. 0 when there is no such name, else -errno of the first failure. */
int tree_remove(int dirfd, const char *name);

#endif
