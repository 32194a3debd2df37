/* SPDX-License-Identifier: Apache-2.0
 *
 * The container's root, built in kernel order:
 *   1. clone every bind source, while the host's tree is still in sight;
 *   2. a tmpfs over /tmp: upper, work and root directories, generated files; or upper and work on a disk (root.c);
 *   3. overlay: image (and injection) layers below, upper above, so that any mount point can be made; or the image's
 *      one layer itself, where the root is read-only and has every mount point already;
 *   4. attach mounts in the block's order, each target resolved inside the root by openat2(RESOLVE_IN_ROOT);
 *   5. pivot_root, detach the host's root.
 * Everything is held by descriptor from the moment it is opened: a path is never resolved twice. */
#include "compose.h"

#include "old_headers.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "block.h"
#include "exec.h"
#include "files.h"
#include "mountpoint.h"
#include "root.h"

/* glibc 2.36 declares these; older ones do not, and the shim is built on old ones. */
static int sys_open_tree(int dirfd, const char *path, unsigned int flags)
{
	return (int)syscall(SYS_open_tree, dirfd, path, flags);
}

static int sys_move_mount(int from, int to)
{
	return (int)syscall(SYS_move_mount, from, "", to, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
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
static int clone_source(const struct block_record *record, struct report *report)
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

/* Only the device that was meant: the node must be a character device of the expected number. */
static int clone_device(const struct block_record *record, struct report *report)
{
	const char *path = record->string[0];
	struct stat st;
	int fd, tree, err;

	fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return report_set(report, STEP_SOURCE, errno, path);
	if (fstat(fd, &st) < 0 || !S_ISCHR(st.st_mode) || major(st.st_rdev) != record->flags >> 20 ||
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

/* A target in the kernel's own trees, to which a symbolic link of the image's may lead: mounting there would hide from
 * the container, and from the engine that proves it, what the kernel says. */
static int is_kernels(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && (fs.f_type == PROC_SUPER_MAGIC || fs.f_type == SYSFS_MAGIC);
}

/* Attach a detached mount at path below the root; closes the mount. */
static int attach(const struct container *container, int mount_fd, const char *path, uint32_t flags,
		  struct report *report)
{
	struct stat st;
	int target = -1, err = 0;

	if (fstat(mount_fd, &st) < 0) {
		err = report_set(report, STEP_MOUNT, errno, path);
		goto out;
	}
	target = mountpoint_open(container, path, S_ISDIR(st.st_mode), flags);
	if (target < 0)
		err = report_set(report, STEP_TARGET, -target, path);
	else if (is_kernels(target))
		err = report_set(report, STEP_TARGET, ELOOP, path);
	else if (sys_move_mount(mount_fd, target) < 0)
		err = report_set(report, STEP_MOUNT, errno, path);
out:
	if (target >= 0)
		close(target);
	close(mount_fd);
	return err;
}

static int new_tmpfs(const char *options, uint32_t flags)
{
	char copy[256], *rest = copy, *option, *value;
	int fs, mount_fd = -1, err = 0;

	snprintf(copy, sizeof(copy), "%s", options);
	fs = (int)syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);
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
static int clone_generated(int stage, unsigned int number, const char *content, struct report *report)
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

static int make_symlink(const struct container *container, const struct block_record *record, struct report *report)
{
	const char *path = record->string[1], *name;
	int dir = mountpoint_parent(container, path, &name), err;

	if (dir < 0)
		return report_set(report, STEP_FILE, -dir, path);
	err = files_on_devices(dir, container->devices, container->device_count);
	if (!err && symlinkat(record->string[0], dir, name) < 0 && errno != EEXIST)
		err = -errno;
	close(dir);
	return err ? report_set(report, STEP_FILE, -err, path) : 0;
}

static int enter_root(int root, int readonly, struct report *report)
{
	if (readonly && sys_mount_setattr(root, 0, MOUNT_ATTR_RDONLY) < 0)
		return report_set(report, STEP_MOUNT, errno, "read-only root");
	/* pivot_root(".", "."): the old root ends up mounted over the new one and is detached from there. */
	if (fchdir(root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return report_set(report, STEP_PIVOT, errno, "pivot_root");
	return 0;
}

/* Step 1: clones[i] belongs to record i; -1 where the record has no source, or an optional one that is missing. */
static int clone_sources(struct block_cursor cursor, int *clones, struct report *report)
{
	struct block_record record;
	int fd;

	for (unsigned int i = 0; block_next(&cursor, &record); i++) {
		clones[i] = -1;
		if (record.op == OP_BIND)
			fd = clone_source(&record, report);
		else if (record.op == OP_DEVICE)
			fd = clone_device(&record, report);
		else
			continue;
		if (fd == -ENOENT && record.op == OP_BIND && (record.flags & BIND_OPTIONAL))
			continue;
		if (fd < 0)
			return fd;
		clones[i] = fd;
	}
	return 0;
}

static int execute(struct container *container, const struct block_record *record, int clone, unsigned int number,
		   struct report *report)
{
	const char *target = record->string[0];
	int fd;

	switch (record->op) {
	case OP_TMPFS:
		fd = new_tmpfs(record->string[1], record->flags);
		if (fd < 0)
			return report_set(report, STEP_MOUNT, -fd, target);
		mountpoint_allow(container, fd);
		return attach(container, fd, target, record->flags, report);
	case OP_BIND:
		return clone < 0 ? 0 : attach(container, clone, record->string[1], record->flags, report);
	case OP_DEVICE:
		return attach(container, clone, record->string[1], 0, report);
	case OP_FILE:
		fd = clone_generated(container->stage, number, record->string[1], report);
		return fd < 0 ? fd : attach(container, fd, target, record->flags, report);
	case OP_SYMLINK:
		return make_symlink(container, record, report);
	default:
		return 0; /* the enter part */
	}
}

/* Whether a path lies below an earlier tmpfs or bind of the block, whose content decides there. */
static int is_below_mount(struct block_cursor cursor, const char *path, unsigned int before)
{
	struct block_record record;
	size_t length;

	for (unsigned int i = 0; i < before && block_next(&cursor, &record); i++) {
		const char *target = record.string[record.op == OP_BIND];

		length = strlen(target);
		if ((record.op == OP_TMPFS || record.op == OP_BIND) && strncmp(path, target, length) == 0 &&
		    path[length] == '/')
			return 1;
	}
	return 0;
}

/* What the container may write to, where the block says so. */
static struct root_upper upper_of(struct block_cursor cursor)
{
	struct root_upper upper = { 0 };
	struct block_record record;

	if (!block_next(&cursor, &record) || !block_next(&cursor, &record) || record.op != OP_UPPER)
		return upper;
	if (record.count > 1)
		upper.mount = record.string[1];
	else
		upper.size = record.string[0];
	return upper;
}

/* Whether the image's one layer can be the root without an overlay: read-only, and nothing has to be made in it. */
static int needs_no_overlay(struct block_cursor start, const struct block_record *root,
			    const struct root_mounts *mounts, const int *clones)
{
	struct block_cursor cursor = start;
	struct block_record record;
	int layer, fd, fine = 1;

	layer = root->flags & ROOT_READONLY ? root_only_layer(root, mounts) : -1;
	for (unsigned int i = 0; layer >= 0 && fine && block_next(&cursor, &record); i++) {
		int moves = record.op == OP_BIND || record.op == OP_DEVICE || record.op == OP_SYMLINK;
		const char *path = record.string[moves];

		if (record.op > OP_SYMLINK || record.op == OP_ROOT || (record.op == OP_BIND && clones[i] < 0) ||
		    is_below_mount(start, path, i))
			continue;
		fd = files_open_in_root(layer, path, O_PATH, 0);
		fine = fd >= 0;
		if (fd >= 0)
			close(fd);
	}
	if (layer >= 0)
		close(layer);
	return layer >= 0 && fine;
}

int compose_root(const void *block, size_t size, const int *mounts, unsigned int mount_count, struct report *report)
{
	struct root_mounts given = { .fds = mounts, .count = mount_count };
	struct container container = { .root = -1, .stage = -1 };
	struct root_upper upper;
	struct block_cursor cursor, start;
	struct block_record record;
	int err, readonly, *clones;
	mode_t mask;

	if (block_open(&start, block, size) < 0)
		return report_set(report, STEP_BLOCK, EBADMSG, "launch block");
	cursor = start;
	if (!block_next(&cursor, &record) || record.op != OP_ROOT)
		return report_set(report, STEP_BLOCK, EBADMSG, "launch block without a root");
	clones = calloc(start.left, sizeof(*clones));
	if (!clones)
		return report_set(report, STEP_BLOCK, ENOMEM, "launch block");
	err = clone_sources(start, clones, report);
	if (err < 0) {
		free(clones);
		return err;
	}
	readonly = record.flags & ROOT_READONLY;
	mask = umask(0022); /* mount points and generated files; the application keeps the user's */
	report->err = 0;
	upper = upper_of(start);
	err = root_mount(&record, &given, &upper, needs_no_overlay(start, &record, &given, clones), &container, report);
	for (unsigned int i = 1; !err && block_next(&cursor, &record); i++)
		err = execute(&container, &record, clones[i], i, report);
	umask(mask);
	free(clones);
	if (!err)
		err = enter_root(container.root, readonly, report);
	if (container.root >= 0)
		close(container.root);
	if (container.stage >= 0)
		close(container.stage);
	return err ? err : exec_check(block, size, report);
}
