/* SPDX-License-Identifier: Apache-2.0
 *
 * File-system calls that Python's os module does not offer. All return 0 (or a descriptor) or -errno. */
#ifndef FAIRLEAD_FILES_H
#define FAIRLEAD_FILES_H

#include <stdint.h>

/* renameat2(RENAME_NOREPLACE): -EEXIST when the new name is taken, so that the first publisher wins. */
int files_rename_noreplace(int old_dirfd, const char *old_path, int new_dirfd, const char *new_path);

/* openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS): path means what it would mean after chroot(rootfd). */
int files_open_in_root(int rootfd, const char *path, int flags, unsigned int mode);

/* Make every missing directory of path below rootfd (symlinks resolved in root); returns an O_PATH descriptor of
 * the last one. Safe against a hostile tree: each step is resolved with RESOLVE_IN_ROOT from a held descriptor. */
int files_mkdirs_in_root(int rootfd, const char *path, unsigned int mode);

#endif
