/* SPDX-License-Identifier: Apache-2.0 */
#include "root.h"

#include "old_headers.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LAYER_DIR "layer"
#define DISK_DIR "disk"
#define DISK_TRIES 16

static int move_mount_to(int from, int dirfd, const char *path)
{
	return syscall(SYS_move_mount, from, "", dirfd, path, MOVE_MOUNT_F_EMPTY_PATH) < 0 ? -errno : 0;
}

/* The number in "mount:N", or -1 where the lower layer is a directory. */
static long mount_number(const char *lower)
{
	char *end;
	long number;

	if (strncmp(lower, "mount:", 6) != 0)
		return -1;
	number = strtol(lower + 6, &end, 10);
	return *end || end == lower + 6 || number < 0 ? LONG_MAX : number;
}

static int mount_fd(const struct root_mounts *mounts, const char *lower, struct report *report)
{
	long number = mount_number(lower);

	if (number < 0 || number >= (long)mounts->count)
		return report_set(report, STEP_LAYER, EBADMSG, lower);
	return mounts->fds[number];
}

/* Attach a mount below the stage, where the overlay finds it by a short name. */
static int attach_layer(int stage, unsigned int number, int fd, char *ret_name, size_t size, struct report *report)
{
	int err;

	snprintf(ret_name, size, LAYER_DIR "/%u", number);
	if (mkdirat(stage, ret_name, 0755) < 0)
		return report_set(report, STEP_STAGE, errno, ret_name);
	err = move_mount_to(fd, stage, ret_name);
	return err ? report_set(report, STEP_LAYER, -err, ret_name) : 0;
}

/* A block that was kept from another launch may be for an image's layers one by one, and now they came as one. */
static int check_mounts(const struct block_record *record, const struct root_mounts *mounts,
			const struct root_upper *upper, struct report *report)
{
	unsigned int named = upper->mount ? 1 : 0;

	for (unsigned int i = 0; i < record->count; i++)
		named += mount_number(record->string[i]) >= 0;
	return named == mounts->count ? 0 : report_set(report, STEP_LAYER, ESTALE, "other mounts than the plan has");
}

/* The lower directories by descriptor, -1 for a mount: opened before a tmpfs covers /tmp, where they may lie. */
static int open_lowers(const struct block_record *record, int *lowers, struct report *report)
{
	for (unsigned int i = 0; i < record->count; i++) {
		if (mount_number(record->string[i]) >= 0)
			continue;
		lowers[i] = open(record->string[i], O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (lowers[i] < 0)
			return report_set(report, STEP_LAYER, errno, record->string[i]);
	}
	return 0;
}

/* Add the overlay options that name the lower layers: directories by descriptor, mounts by their place in the stage. */
static int name_lowers(const struct block_record *record, const struct root_mounts *mounts, int stage,
		       const int *lowers, char *ret_options, size_t size, struct report *report)
{
	size_t used = strlen(ret_options);
	char name[64];
	int fd, err;

	for (unsigned int i = 0; i < record->count; i++) {
		const char *lower = record->string[i];

		if (lowers[i] >= 0) {
			snprintf(name, sizeof(name), "/proc/self/fd/%d", lowers[i]);
		} else {
			fd = mount_fd(mounts, lower, report);
			err = fd < 0 ? fd : attach_layer(stage, i, fd, name, sizeof(name), report);
			if (err < 0)
				return err;
		}
		used += (size_t)snprintf(ret_options + used, size - used, "%s%s", i ? ":" : "", name);
		if (used >= size)
			return report_set(report, STEP_LAYER, E2BIG, lower);
	}
	return 0;
}

/* A tmpfs over an existing directory, since overlay wants its upper inside this namespace. What lies below was cloned
 * before and stays reachable by descriptor. */
static int mount_stage(const char *size, struct report *report)
{
	static const char *const places[] = { "/tmp", "/mnt", "/run", "/var" };
	char options[64];
	int stage, first = 0;

	if ((size_t)snprintf(options, sizeof(options), "mode=0755%s%s", size ? ",size=" : "", size ? size : "") >=
	    sizeof(options) || (size && strchr(size, ',')))
		return report_set(report, STEP_STAGE, EINVAL, size);

	for (unsigned int i = 0; i < sizeof(places) / sizeof(*places); i++) {
		if (mount("tmpfs", places[i], "tmpfs", MS_NOSUID | MS_NODEV, options) == 0) {
			stage = open(places[i], O_PATH | O_DIRECTORY | O_CLOEXEC);
			if (stage >= 0)
				return stage;
		}
		first = first ? first : errno;
	}
	return report_set(report, STEP_STAGE, first, "tmpfs over /tmp");
}

/* Where upper and work directory go: into the stage, or on the mount that came for them, in a directory that is new: an
 * earlier attempt of this step, whose task was killed, may have left one. */
static int place_upper(const struct root_upper *upper, const struct root_mounts *mounts, int stage, int place,
		       char *ret_prefix, size_t size, struct report *report)
{
	int fd, err;

	*ret_prefix = '\0';
	if (upper->place) {
		snprintf(ret_prefix, size, "/proc/self/fd/%d/", place);
		return 0;
	}
	if (!upper->mount)
		return 0;
	fd = mount_fd(mounts, upper->mount, report);
	if (fd < 0)
		return fd;
	if (mkdirat(stage, DISK_DIR, 0755) < 0)
		return report_set(report, STEP_STAGE, errno, DISK_DIR);
	err = move_mount_to(fd, stage, DISK_DIR);
	for (int i = 0; !err && i < DISK_TRIES; i++) {
		snprintf(ret_prefix, size, DISK_DIR "/%d/", i);
		if (mkdirat(stage, ret_prefix, 0755) == 0)
			return 0;
		err = errno == EEXIST ? 0 : -errno;
	}
	return report_set(report, STEP_STAGE, err ? -err : EEXIST, "writable directory on disk");
}

static int make_folders(int stage, const char *prefix, int kept, struct report *report)
{
	static const char *const folders[] = { "upper", "work" };
	char name[64];

	for (unsigned int i = 0; i < sizeof(folders) / sizeof(*folders); i++) {
		snprintf(name, sizeof(name), "%s%s", prefix, folders[i]);
		if (mkdirat(stage, name, 0755) < 0 && !(kept && errno == EEXIST))
			return report_set(report, STEP_STAGE, errno, *prefix ? "writable directory on disk" : "tmpfs over /tmp");
	}
	return mkdirat(stage, LAYER_DIR, 0755) < 0 ? report_set(report, STEP_STAGE, errno, "tmpfs over /tmp") : 0;
}

static int mount_overlay(const struct block_record *record, const struct root_mounts *mounts,
			 const struct root_upper *upper, int stage, const int *lowers, struct report *report)
{
	const char *image = record->string[record->count - 1];
	char options[PATH_MAX], source[PATH_MAX], prefix[32];
	int err;

	/* The descriptor of the place stands after those of the lower layers. */
	err = place_upper(upper, mounts, stage, lowers[record->count], prefix, sizeof(prefix), report);
	if (!err)
		err = make_folders(stage, prefix, upper->place != NULL, report);
	if (err)
		return err;
	/* volatile: what a program syncs in its root need not reach a disk, since it ends with the container. */
	snprintf(options, sizeof(options), "userxattr,%supperdir=%supper,workdir=%swork,lowerdir=",
		 upper->mount ? "volatile," : "", prefix, prefix);
	err = name_lowers(record, mounts, stage, lowers, options, sizeof(options), report);
	/* The image as the mount's source: mountinfo shows it, and the lower directories only as descriptors, to whoever
	 * wants to know whether a tree of a store is in use (store/layers.py), and the container's name (host/running.py). */
	snprintf(source, sizeof(source), "%s%s%s", mount_number(image) < 0 ? image : "overlay", upper->name ? "#" : "",
		 upper->name ? upper->name : "");
	if (!err && mount(source, "root", "overlay", MS_NOSUID | MS_NODEV, options) < 0)
		err = report_set(report, STEP_OVERLAY, errno, record->string[record->count - 1]);
	return err;
}

int root_only_layer(const struct block_record *record, const struct root_mounts *mounts)
{
	long number;

	if (record->count != 1)
		return -1;
	number = mount_number(record->string[0]);
	if (number < 0)
		return open(record->string[0], O_PATH | O_DIRECTORY | O_CLOEXEC);
	return number < (long)mounts->count ? fcntl(mounts->fds[number], F_DUPFD_CLOEXEC, 3) : -1;
}

static int mount_bare(const char *lower, int directory, const struct root_mounts *mounts, int stage,
		      struct report *report)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV };
	int fd, err = 0, own = directory >= 0;

	if (own)
		fd = (int)syscall(SYS_open_tree, directory, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
	else
		fd = mount_fd(mounts, lower, report);
	if (fd < 0)
		return report->err ? -report->err : report_set(report, STEP_LAYER, errno, lower);
	if (own && syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0)
		err = -errno;
	if (!err)
		err = move_mount_to(fd, stage, "root");
	if (own)
		close(fd);
	return err ? report_set(report, STEP_LAYER, -err, lower) : 0;
}

static int mount_on_stage(const struct block_record *record, const struct root_mounts *mounts,
			  const struct root_upper *upper, int bare, const int *lowers, struct container *ret,
			  struct report *report)
{
	int err;

	ret->stage = mount_stage(upper->size, report);
	if (ret->stage < 0)
		return ret->stage;
	if (mkdirat(ret->stage, "root", 0755) < 0 || fchdir(ret->stage) < 0)
		return report_set(report, STEP_STAGE, errno, "tmpfs over /tmp");
	err = bare ? mount_bare(record->string[0], lowers[0], mounts, ret->stage, report) :
		     mount_overlay(record, mounts, upper, ret->stage, lowers, report);
	if (err)
		return err;
	ret->root = openat(ret->stage, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (ret->root < 0)
		return report_set(report, STEP_OVERLAY, errno, "root");
	if (!bare)
		mountpoint_allow(ret, ret->root);
	return 0;
}

int root_mount(const struct block_record *record, const struct root_mounts *mounts, const struct root_upper *upper,
	       int bare, struct container *ret, struct report *report)
{
	int *lowers = malloc((record->count + 1u) * sizeof(*lowers)), err;

	if (!lowers)
		return report_set(report, STEP_STAGE, ENOMEM, "layers");
	for (unsigned int i = 0; i <= record->count; i++)
		lowers[i] = -1;
	err = check_mounts(record, mounts, upper, report);
	if (!err)
		err = open_lowers(record, lowers, report);
	if (!err && upper->place) {
		lowers[record->count] = open(upper->place, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		err = lowers[record->count] < 0 ? report_set(report, STEP_LAYER, errno, upper->place) : 0;
	}
	if (!err)
		err = mount_on_stage(record, mounts, upper, bare, lowers, ret, report);
	/* Each is a way to a directory of the host: none may be open when the root has been entered. */
	for (unsigned int i = 0; i <= record->count; i++)
		if (lowers[i] >= 0)
			close(lowers[i]);
	free(lowers);
	return err;
}

int root_view(const char *place, const struct root_mounts *mounts, struct report *report)
{
	char options[PATH_MAX] = "userxattr,lowerdir=", name[64];
	size_t used = strlen(options);
	int stage, err = 0;

	if (mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700") < 0)
		return report_set(report, STEP_STAGE, errno, place);
	stage = open(place, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (stage < 0 || mkdirat(stage, LAYER_DIR, 0755) < 0 || mkdirat(stage, "view", 0755) < 0 || fchdir(stage) < 0)
		return report_set(report, STEP_STAGE, errno, place);
	for (unsigned int i = mounts->count; !err && i-- > 0;) {
		if (mounts->count == 1) {
			err = move_mount_to(mounts->fds[0], stage, "view");
			err = err ? report_set(report, STEP_LAYER, -err, place) : 0;
			break;
		}
		err = attach_layer(stage, i, mounts->fds[i], name, sizeof(name), report);
		used += (size_t)snprintf(options + used, sizeof(options) - used, "%s%s",
					 i + 1 == mounts->count ? "" : ":", name);
		if (!err && used >= sizeof(options))
			err = report_set(report, STEP_LAYER, E2BIG, place);
	}
	if (!err && mounts->count > 1 &&
	    mount("overlay", "view", "overlay", MS_NOSUID | MS_NODEV | MS_RDONLY, options) < 0)
		err = report_set(report, STEP_OVERLAY, errno, place);
	close(stage);
	return err;
}
