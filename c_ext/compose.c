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
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "block.h"
#include "detached.h"
#include "exec.h"
#include "files.h"
#include "mountpoint.h"
#include "root.h"

static int sys_move_mount(int from, int to)
{
	return (int)syscall(SYS_move_mount, from, "", to, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

static int sys_mount_setattr(int fd, unsigned int flags, uint64_t set)
{
	struct mount_attr attr = { .attr_set = set };

	return (int)syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH | flags, &attr, sizeof(attr));
}

/* A target in the kernel's own trees, to which a symbolic link of the image's may lead: mounting there would hide from
 * the container, and from the engine that proves it, what the kernel says. */
static int is_kernels(int fd)
{
	static const long kernels[] = { PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC,
					TRACEFS_MAGIC, SECURITYFS_MAGIC, BPF_FS_MAGIC, BINFMTFS_MAGIC };
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return 0;
	for (size_t i = 0; i < sizeof(kernels) / sizeof(*kernels); i++)
		if ((long)fs.f_type == kernels[i])
			return 1;
	return 0;
}

/* Attach a detached mount at path below the root; closes the mount. */
static int attach(const struct container *container, int mount_fd, const char *path, uint32_t flags,
		  struct report *report)
{
	struct stat st;
	int target = -1, err = 0, is_dir;

	if (fstat(mount_fd, &st) < 0) {
		err = report_set(report, STEP_MOUNT, errno, path);
		goto out;
	}
	is_dir = S_ISDIR(st.st_mode);
	target = mountpoint_open(container, path, is_dir, flags);
	if (target < 0)
		err = report_set(report, STEP_TARGET, -target, path);
	else if (is_kernels(target))
		err = report_set(report, STEP_TARGET, ELOOP, path);
	else if (fstat(target, &st) == 0 && S_ISDIR(st.st_mode) != is_dir) /* the kernel's own word would be EINVAL */
		err = report_set(report, STEP_TARGET, is_dir ? ENOTDIR : EISDIR, path);
	else if (sys_move_mount(mount_fd, target) < 0)
		err = report_set(report, STEP_MOUNT, errno, path);
out:
	if (target >= 0)
		close(target);
	close(mount_fd);
	return err;
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
			fd = detached_source(&record, report);
		else if (record.op == OP_DEVICE)
			fd = detached_device(&record, report);
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
		fd = detached_new(record->count > 2 ? record->string[2] : "tmpfs", record->string[1], record->flags);
		if (fd < 0)
			return report_set(report, STEP_MOUNT, -fd, target);
		if (record->count < 3)
			mountpoint_allow(container, fd);
		return attach(container, fd, target, record->flags, report);
	case OP_BIND:
		return clone < 0 ? 0 : attach(container, clone, record->string[1], record->flags, report);
	case OP_DEVICE:
		return attach(container, clone, record->string[1], 0, report);
	case OP_FILE:
		fd = detached_file(container->stage, number, record->string[1], report);
		return fd < 0 ? fd : attach(container, fd, target, record->flags, report);
	case OP_SYMLINK:
		return make_symlink(container, record, report);
	case OP_DIRECTORY: /* whatever keeps it from being made, entering it says so (exec.c) */
		fd = mountpoint_open(container, target, 1, 0);
		if (fd >= 0)
			close(fd);
		return 0;
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
	if (record.count > 2) {
		upper.place = record.string[1];
		upper.name = record.string[2];
	} else if (record.count > 1) {
		upper.mount = record.string[1];
	} else {
		upper.size = record.string[0];
	}
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

		if ((record.op > OP_SYMLINK && record.op != OP_DIRECTORY) || record.op == OP_ROOT || (record.op == OP_BIND && clones[i] < 0) ||
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

int compose_build(const void *block, size_t size, const int *mounts, unsigned int mount_count, int changes,
		  struct container *ret, struct report *report)
{
	struct root_mounts given = { .fds = mounts, .count = mount_count };
	struct root_upper upper;
	struct block_cursor cursor, start;
	struct block_record record;
	int err, bare, *clones;
	mode_t mask;

	*ret = (struct container){ .root = -1, .stage = -1 };
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
	mask = umask(0022); /* mount points and generated files; the application keeps the user's */
	report->err = 0;
	upper = upper_of(start);
	bare = !changes && !upper.place && needs_no_overlay(start, &record, &given, clones);
	err = root_mount(&record, &given, &upper, bare, ret, report);
	for (unsigned int i = 1; !err && block_next(&cursor, &record); i++)
		err = execute(ret, &record, clones[i], i, report);
	umask(mask);
	free(clones);
	return err;
}

int compose_enter(const void *block, size_t size, struct container *container, struct report *report)
{
	struct block_cursor cursor;
	struct block_record record;
	int err;

	if (block_open(&cursor, block, size) < 0 || !block_next(&cursor, &record))
		return report_set(report, STEP_BLOCK, EBADMSG, "launch block");
	err = enter_root(container->root, record.flags & ROOT_READONLY, report);
	compose_close(container);
	return err ? err : exec_check(block, size, report);
}

void compose_close(struct container *container)
{
	/* Ways out of the new root: none may be open when it has been entered. */
	if (container->root >= 0)
		close(container->root);
	if (container->stage >= 0)
		close(container->stage);
	container->root = container->stage = -1;
}

int compose_root(const void *block, size_t size, const int *mounts, unsigned int mount_count, struct report *report)
{
	struct container container;
	int err = compose_build(block, size, mounts, mount_count, 0, &container, report);

	if (!err)
		return compose_enter(block, size, &container, report);
	compose_close(&container);
	return err;
}
