/* SPDX-License-Identifier: Apache-2.0 */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int files_rename_noreplace(int old_dirfd, const char *old_path, int new_dirfd, const char *new_path)
{
	if (renameat2(old_dirfd, old_path, new_dirfd, new_path, RENAME_NOREPLACE) < 0)
		return -errno;
	return 0;
}

int files_open_in_root(int rootfd, const char *path, int flags, unsigned int mode)
{
	struct open_how how = {
		.flags = (uint64_t)(unsigned int)(flags | O_CLOEXEC),
		.mode = (flags & O_CREAT) ? mode : 0,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
	};
	long fd;

	/* EAGAIN: a rename raced with the resolution of ".."; the man page asks for a retry. */
	for (int tries = 0; tries < 64; tries++) {
		fd = syscall(SYS_openat2, rootfd, *path ? path : "/", &how, sizeof(how));
		if (fd >= 0)
			return (int)fd;
		if (errno != EAGAIN)
			return -errno;
	}
	return -EAGAIN;
}

int files_mkdirs_in_root(int rootfd, const char *path, unsigned int mode)
{
	char prefix[PATH_MAX];
	size_t done = 0, len = strlen(path);
	int fd, dir;

	if (len >= sizeof(prefix))
		return -ENAMETOOLONG;
	fd = files_open_in_root(rootfd, path, O_PATH | O_DIRECTORY, 0);
	if (fd != -ENOENT)
		return fd;

	/* Walk from the root; each missing component is made in its parent's descriptor. The parent is looked up
	 * anew with the whole prefix, because ".." and symlinks may lead anywhere inside the root. */
	while (done < len) {
		size_t start = done + strspn(path + done, "/");
		size_t end = start + strcspn(path + start, "/");

		if (start == len)
			break;
		memcpy(prefix, path, end);
		prefix[end] = '\0';
		fd = files_open_in_root(rootfd, prefix, O_PATH | O_DIRECTORY, 0);
		if (fd == -ENOENT) {
			prefix[start] = '\0';
			dir = files_open_in_root(rootfd, prefix, O_PATH | O_DIRECTORY, 0);
			if (dir < 0)
				return dir;
			memcpy(prefix, path + start, end - start);
			prefix[end - start] = '\0';
			fd = mkdirat(dir, prefix, mode) < 0 && errno != EEXIST ? -errno : 0;
			close(dir);
			if (fd < 0)
				return fd;
			memcpy(prefix, path, end);
			prefix[end] = '\0';
			/* A dangling symlink by that name: mkdirat said EEXIST and this says ENOENT. */
			fd = files_open_in_root(rootfd, prefix, O_PATH | O_DIRECTORY, 0);
		}
		if (fd < 0)
			return fd;
		if (end == len || path[end + strspn(path + end, "/")] == '\0')
			return fd;
		close(fd);
		done = end;
	}
	return files_open_in_root(rootfd, path, O_PATH | O_DIRECTORY, 0);
}
