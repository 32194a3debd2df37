/* SPDX-License-Identifier: Apache-2.0
 *
 * File-system calls that Python's os module does not offer. All return 0 (or a descriptor) or -errno. */
#ifndef FAIRLEAD_FILES_H
#define FAIRLEAD_FILES_H

#include <stddef.h>
#include <stdint.h>

/* renameat2(RENAME_NOREPLACE): -EEXIST when the new name is taken, so that the first publisher wins. */
int files_rename_noreplace(const char *old_path, const char *new_path);

/* openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS): path means what it would mean after chroot(rootfd). */
int files_open_in_root(int rootfd, const char *path, int flags, unsigned int mode);

/* Make every missing directory of path below rootfd (symlinks resolved in root); returns an O_PATH descriptor of
 * the last one. Safe against a hostile tree: each step is resolved with RESOLVE_IN_ROOT from a held descriptor.
 * -EXDEV when something is missing on a file system that is not among the devices: a mount point must not become a
 * new directory in a host's directory that is bound into the root. */
int files_mkdirs_in_root(int rootfd, const char *path, unsigned int mode, const uint64_t *devices, size_t count);

/* 0 when the directory lies on one of the devices, else -EXDEV. */
int files_on_devices(int dirfd, const uint64_t *devices, size_t count);

#endif
