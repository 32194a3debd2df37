/* SPDX-License-Identifier: Apache-2.0 */
#include "mountpoint.h"

#include "old_headers.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block.h"
#include "files.h"

void mountpoint_allow(struct container *container, int fd)
{
	struct stat st;

	if (container->device_count < sizeof(container->devices) / sizeof(*container->devices) && fstat(fd, &st) == 0)
		container->devices[container->device_count++] = st.st_dev;
}

static int make_directories(const struct container *container, const char *path)
{
	return files_mkdirs_in_root(container->root, path, 0755, container->devices, container->device_count);
}

/* The directory of a path and its last name; the path is a mount point's, so it has one. */
int mountpoint_parent(const struct container *container, const char *path, const char **ret_name)
{
	const char *name = strrchr(path, '/');
	char parent[PATH_MAX];

	if (!name || !name[1] || (size_t)(name - path) >= sizeof(parent))
		return -EINVAL;
	memcpy(parent, path, (size_t)(name - path));
	parent[name - path] = '\0';
	*ret_name = name + 1;
	return make_directories(container, parent);
}

static int open_strict(int root, const char *path)
{
	struct open_how how = {
		.flags = O_PATH | O_CLOEXEC,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS,
	};
	long fd = syscall(SYS_openat2, root, path, &how, sizeof(how));

	return fd < 0 ? -errno : (int)fd;
}

/* An empty file to mount over. A dangling link there (resolv.conf often is one) gives way: its target may lie in a
 * directory of the host, and the root's own upper layer is ours to change. */
static int make_file(const struct container *container, const char *path)
{
	const char *name;
	int dir, fd, err;

	dir = mountpoint_parent(container, path, &name);
	if (dir < 0)
		return dir;
	err = files_on_devices(dir, container->devices, container->device_count);
	if (!err && unlinkat(dir, name, 0) < 0 && errno != ENOENT)
		err = -errno;
	fd = err ? err : openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (!err && fd < 0)
		err = -errno;
	close(dir);
	if (err)
		return err;
	close(fd);
	return files_open_in_root(container->root, path, O_PATH, 0);
}

/* The mount point: made when it is missing, a directory or an empty file as the source wants it. */
int mountpoint_open(const struct container *container, const char *path, int is_dir, uint32_t flags)
{
	int fd = flags & TARGET_STRICT ? open_strict(container->root, path) : -ENOENT;

	if (fd != -ENOENT)
		return fd;
	fd = files_open_in_root(container->root, path, O_PATH, 0);
	if (fd != -ENOENT)
		return fd;
	return is_dir ? make_directories(container, path) : make_file(container, path);
}
