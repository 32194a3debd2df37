/* SPDX-License-Identifier: Apache-2.0 */
#include "broker_mount.h"

#include "old_headers.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker_loop.h"

static int write_map(pid_t pid, const char *name, unsigned int id)
{
	char path[64], map[64];
	int fd, err = 0;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	snprintf(map, sizeof(map), "0 %u 1\n", id);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, map, strlen(map)) < 0)
		err = -errno;
	close(fd);
	return err;
}

static int namespace_of(pid_t pid, uid_t uid, gid_t gid)
{
	char path[64];
	int fd, err = write_map(pid, "uid_map", uid);

	if (!err)
		err = write_map(pid, "gid_map", gid);
	if (err)
		return err;
	snprintf(path, sizeof(path), "/proc/%d/ns/user", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* The namespace is born in a child, which lives until a descriptor holds it. */
int mount_idmap(uid_t uid, gid_t gid)
{
	int ready[2], done[2], fd;
	char byte = 1;
	pid_t child;

	if (pipe2(ready, O_CLOEXEC) < 0)
		return -errno;
	if (pipe2(done, O_CLOEXEC) < 0) {
		fd = -errno;
		close(ready[0]), close(ready[1]);
		return fd;
	}
	child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(done[1]);
		byte = unshare(CLONE_NEWUSER) == 0;
		if (write(ready[1], &byte, 1) == 1 && read(done[0], &byte, 1) < 0)
			_exit(1);
		_exit(0);
	}
	fd = child < 0 ? -errno : -EPERM;
	close(ready[1]), close(done[0]);
	if (child > 0 && read(ready[0], &byte, 1) == 1 && byte == 1)
		fd = namespace_of(child, uid, gid);
	close(ready[0]), close(done[1]);
	while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
	return fd;
}

static int set_string(int fs, const char *key, int fd)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return (int)syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, key, path, 0);
}

/* Named by descriptor, files and block devices alike: what was opened and looked at is what is mounted. */
static int mount_fds(const int *fds, unsigned int count)
{
	int fs, fd = -1, err = 0;

	fs = (int)syscall(SYS_fsopen, "erofs", FSOPEN_CLOEXEC);
	if (fs < 0)
		return -errno;
	for (unsigned int i = 0; i < count && !err; i++)
		err = set_string(fs, i ? "device" : "source", fds[i]) < 0 ? -errno : 0;
	if (!err && (syscall(SYS_fsconfig, fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) < 0 ||
		     syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0))
		err = -errno;
	if (!err) {
		fd = (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC,
				  MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOATIME);
		err = fd < 0 ? -errno : 0;
	}
	close(fs);
	return err ? err : fd;
}

static int mount_loops(const int *fds, unsigned int count)
{
	int devices[MOUNT_MAX_FILES] = { -1 }, mount = 0;
	unsigned int have = 0;
	char path[32];

	for (; have < count && mount >= 0; have += mount >= 0)
		mount = devices[have] = loop_attach(fds[have], LO_FLAGS_READ_ONLY, path, sizeof(path));
	if (mount >= 0)
		mount = mount_fds(devices, have);
	while (have) /* from here on the mount alone keeps them */
		close(devices[--have]);
	return mount;
}

int mount_image(const int *fds, unsigned int count, int idmap)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (unsigned int)idmap };
	int mount, err;

	if (!count || count > MOUNT_MAX_FILES)
		return -E2BIG;
	mount = mount_fds(fds, count);
	/* Before Linux 6.12 a file is no source; later, one on a file system that EROFS cannot read from (tmpfs). */
	if (mount == -ENOTBLK || mount == -EINVAL || mount == -EOPNOTSUPP)
		mount = mount_loops(fds, count);
	if (mount < 0)
		return mount;
	if (syscall(SYS_mount_setattr, mount, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0) {
		err = -errno;
		close(mount);
		return err;
	}
	return mount;
}
