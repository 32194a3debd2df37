/* SPDX-License-Identifier: Apache-2.0 */
#include "files.h"

#include "old_headers.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int files_rename_noreplace(const char *old_path, const char *new_path)
{
	if (renameat2(AT_FDCWD, old_path, AT_FDCWD, new_path, RENAME_NOREPLACE) < 0)
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

int files_on_devices(int dirfd, const uint64_t *devices, size_t count)
{
	struct stat st;

	if (fstat(dirfd, &st) < 0)
		return -errno;
	for (size_t i = 0; i < count; i++)
		if (devices[i] == st.st_dev)
			return 0;
	return -EXDEV;
}

/* The text of a link in dir, resolved against the path of that directory. */
static int link_path(int dir, const char *dir_path, const char *name, char *ret, size_t size)
{
	char target[PATH_MAX];
	ssize_t len = readlinkat(dir, name, target, sizeof(target) - 1);
	int n;

	if (len < 0)
		return -errno;
	target[len] = '\0';
	n = target[0] == '/' ? snprintf(ret, size, "%s", target) : snprintf(ret, size, "%s/%s", dir_path, target);
	return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

/* depth bounds both missing components and dangling links; a frame holds two paths, so it stays small. */
static int make_path(int rootfd, const char *path, unsigned int mode, const uint64_t *devices, size_t count,
		     unsigned int depth)
{
	char parent[PATH_MAX], name[NAME_MAX + 1];
	size_t len = strlen(path), start;
	int dir, err, fd = files_open_in_root(rootfd, path, O_PATH | O_DIRECTORY, 0);

	if (fd != -ENOENT)
		return fd;
	while (len && path[len - 1] == '/')
		len--;
	for (start = len; start && path[start - 1] != '/'; start--)
		;
	if (!depth || len - start >= sizeof(name) || start >= sizeof(parent))
		return depth ? -ENAMETOOLONG : -ELOOP;
	memcpy(parent, path, start);
	parent[start] = '\0';
	memcpy(name, path + start, len - start);
	name[len - start] = '\0';

	dir = make_path(rootfd, parent, mode, devices, count, depth - 1);
	if (dir < 0)
		return dir;
	err = files_on_devices(dir, devices, count);
	if (!err && mkdirat(dir, name, mode) < 0)
		err = -errno;
	if (err == -EEXIST) {
		/* Missing and yet existing: a dangling link (/home -> var/home). What it names is made instead. */
		char target[PATH_MAX];

		err = link_path(dir, parent, name, target, sizeof(target));
		close(dir);
		return err ? err : make_path(rootfd, target, mode, devices, count, depth - 1);
	}
	close(dir);
	return err ? err : files_open_in_root(rootfd, path, O_PATH | O_DIRECTORY, 0);
}

int files_mkdirs_in_root(int rootfd, const char *path, unsigned int mode, const uint64_t *devices, size_t count)
{
	return make_path(rootfd, path, mode, devices, count, 64);
}
