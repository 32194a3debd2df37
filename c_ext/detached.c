/* SPDX-License-Identifier: Apache-2.0 */
#include "detached.h"

#include "old_headers.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* glibc 2.36 declares these; older ones do not, and the shim is built on old ones. */
static int sys_open_tree(int dirfd, const char *path, unsigned int flags)
{
	return (int)syscall(SYS_open_tree, dirfd, path, flags);
}

static int sys_mount_setattr(int fd, unsigned int flags, uint64_t set)
{
	struct mount_attr attr = { .attr_set = set };

	return (int)syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH | flags, &attr, sizeof(attr));
}

static uint64_t attributes_of(uint32_t flags)
{
	return MOUNT_ATTR_NOSUID | (flags & BIND_DEVICES ? 0 : MOUNT_ATTR_NODEV) |
	       (flags & BIND_READONLY ? MOUNT_ATTR_RDONLY : 0) | (flags & BIND_NOEXEC ? MOUNT_ATTR_NOEXEC : 0);
}

/* A magic link (/proc/self/fd/7) names no file of the host's tree but what this process holds open. */
static int is_magic(const char *path)
{
	struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_MAGICLINKS };
	long fd = syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));

	if (fd >= 0)
		close((int)fd);
	return fd < 0 && errno == ELOOP;
}

static int set_propagation(int fd, uint32_t flags)
{
	struct mount_attr attr = { .propagation = flags & BIND_UNBINDABLE ? MS_UNBINDABLE : MS_PRIVATE };
	unsigned int at = AT_EMPTY_PATH | (flags & BIND_PROPAGATE_ALL ? AT_RECURSIVE : 0);

	if (!(flags & (BIND_PRIVATE | BIND_UNBINDABLE)))
		return 0;
	return syscall(SYS_mount_setattr, fd, "", at, &attr, sizeof(attr)) < 0 ? -errno : 0;
}

/* A detached copy of the mount tree at the source, with the attributes that the record asks for. */
int detached_source(const struct block_record *record, struct report *report)
{
	const char *path = record->string[0];
	unsigned int recursive = record->flags & BIND_SHALLOW ? 0 : AT_RECURSIVE;
	int fd, err;

	if (is_magic(path))
		return report_set(report, STEP_SOURCE, ELOOP, path);
	fd = sys_open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | recursive);
	if (fd < 0 && (errno == ENOENT || errno == EACCES || errno == ENOTDIR) && (record->flags & BIND_OPTIONAL))
		return -ENOENT;
	if (fd < 0)
		return report_set(report, STEP_SOURCE, errno, path);
	err = sys_mount_setattr(fd, recursive, attributes_of(record->flags)) < 0 ? errno : 0;
	if (!err)
		err = -set_propagation(fd, record->flags);
	if (err) {
		close(fd);
		return report_set(report, STEP_MOUNT, err, path);
	}
	return fd;
}

/* Only the device that was meant: the node must be a device of the expected kind and number. */
int detached_device(const struct block_record *record, struct report *report)
{
	mode_t kind = record->count > 2 ? S_IFBLK : S_IFCHR;
	const char *path = record->string[0];
	struct stat st;
	int fd, tree, err;

	fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return report_set(report, STEP_SOURCE, errno, path);
	if (fstat(fd, &st) < 0 || (st.st_mode & S_IFMT) != kind || major(st.st_rdev) != record->flags >> 20 ||
	    minor(st.st_rdev) != (record->flags & 0xfffff)) {
		close(fd);
		return report_set(report, STEP_SOURCE, ENODEV, path);
	}
	tree = sys_open_tree(fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
	err = errno;
	close(fd);
	if (tree >= 0 && sys_mount_setattr(tree, 0, MOUNT_ATTR_NOSUID) < 0) {
		err = errno;
		close(tree);
		tree = -1;
	}
	return tree < 0 ? report_set(report, STEP_SOURCE, err, path) : tree;
}

int detached_new(const char *type, const char *options, uint32_t flags)
{
	char copy[256], *rest = copy, *option, *value;
	int fs, mount_fd = -1, err = 0;

	snprintf(copy, sizeof(copy), "%s", options);
	fs = (int)syscall(SYS_fsopen, type, FSOPEN_CLOEXEC);
	if (fs < 0)
		return -errno;
	while (!err && (option = strsep(&rest, ","))) {
		if (!*option)
			continue;
		value = strchr(option, '=');
		if (value)
			*value++ = '\0';
		if (syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, option, value ? value : "", 0) < 0)
			err = -errno;
	}
	if (!err && syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		err = -errno;
	if (!err) {
		mount_fd = (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, (unsigned int)attributes_of(flags));
		err = mount_fd < 0 ? -errno : 0;
	}
	close(fs);
	return err ? err : mount_fd;
}

/* A generated file lives in the stage and is bound read-only: the image's own file stays as it was. */
int detached_file(int stage, unsigned int number, const char *content, struct report *report)
{
	char name[32];
	size_t len = strlen(content), done = 0;
	ssize_t n;
	int fd, tree, err = 0;

	snprintf(name, sizeof(name), "file%u", number);
	fd = openat(stage, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0)
		return report_set(report, STEP_FILE, errno, name);
	while (done < len) {
		n = write(fd, content + done, len - done);
		if (n < 0 && errno != EINTR) {
			err = errno;
			break;
		}
		done += n > 0 ? (size_t)n : 0;
	}
	close(fd);
	if (err)
		return report_set(report, STEP_FILE, err, name);
	tree = sys_open_tree(stage, name, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (tree < 0 || sys_mount_setattr(tree, 0, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_RDONLY) < 0)
		return report_set(report, STEP_FILE, errno, name);
	return tree;
}
