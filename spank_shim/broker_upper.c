/* SPDX-License-Identifier: Apache-2.0 */
#include "broker_upper.h"

#include "old_headers.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker_loop.h"
#include "broker_service.h"

#define COPY_BYTES 65536

/* Few features, so that few bytes have to be written; no journal, since nothing is to survive; the tables of inodes are
 * zero already (lazy). nodiscard: a discard would give the reserved room back. */
#define FEATURES \
	"none,64bit,dir_index,dir_nlink,ext_attr,extent,extra_isize,filetype,flex_bg,huge_file,large_file,sparse_super," \
	"uninit_bg"

static const char *mke2fs(void)
{
	static const char *const places[] = { "/usr/sbin/mke2fs", "/sbin/mke2fs" };

	for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++)
		if (access(places[i], X_OK) == 0)
			return places[i];
	return NULL;
}

static _Noreturn void become_mke2fs(const struct site *site, int image, const char *program, pid_t parent)
{
	const char *environment[] = { "MKE2FS_CONFIG=/dev/null", "LANG=C.UTF-8", NULL };
	char options[96];
	const char *argv[] = { "mke2fs", "-q", "-F", "-b", "4096", "-I", "256", "-i", "8192", "-m", "0", "-O", FEATURES,
			       "-E", options, "/proc/self/fd/3", NULL };

	snprintf(options, sizeof(options), "nodiscard,lazy_itable_init=1,root_owner=%u:%u", site->uid, site->gid);
	service_become(site, &image, 1, parent);
	execve(program, (char *const *)argv, (char *const *)environment);
	_exit(126);
}

/* Reserve as the service account: root would be given the last blocks of the disk, and no quota. Ends with the errno. */
static _Noreturn void reserve(const struct site *site, int file, uint64_t bytes, pid_t parent)
{
	service_become(site, &file, 1, parent);
	_exit(fallocate(SERVICE_FD, 0, 0, (off_t)bytes) < 0 ? errno : 0);
}

/* The exit status of a child, -1 if it was killed. */
static int status_of(pid_t child)
{
	int status;

	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* An ext4 of that size, as holes with a few hundred kilobytes of data: in memory, where mke2fs's calls of fsync cost
 * nothing, and where it has no way to the file that will be mounted. A descriptor or -errno. */
static int format(const struct site *site, uint64_t bytes)
{
	const char *program = mke2fs();
	int image, status = -1;
	pid_t child, parent = getpid();

	if (!program)
		return -ENOPKG;
	image = memfd_create("fairlead-upper", MFD_CLOEXEC);
	if (image < 0)
		return -errno;
	if (ftruncate(image, (off_t)bytes) == 0) {
		child = fork();
		if (child == 0)
			become_mke2fs(site, image, program, parent);
		status = child < 0 ? -1 : status_of(child);
	}
	if (status != 0) {
		close(image);
		return -EIO;
	}
	return image;
}

static int copy_piece(int from, int to, off_t at, off_t end, void *buffer)
{
	ssize_t n;

	while (at < end) {
		n = pread(from, buffer, end - at < COPY_BYTES ? (size_t)(end - at) : COPY_BYTES, at);
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		n = pwrite(to, buffer, (size_t)n, at);
		if (n < 0)
			return -errno;
		at += n;
	}
	return 0;
}

/* Copy what is not a hole: the reserved room reads as zeros already. */
static int copy(int from, int to)
{
	void *buffer = malloc(COPY_BYTES);
	off_t at = 0, end;
	int err = buffer ? 0 : -ENOMEM;

	while (!err) {
		at = lseek(from, at, SEEK_DATA);
		if (at < 0) {
			err = errno == ENXIO ? 0 : -errno;
			break;
		}
		end = lseek(from, at, SEEK_HOLE);
		err = end < 0 ? -errno : copy_piece(from, to, at, end, buffer);
		at = end;
	}
	free(buffer);
	return err;
}

/* A file without a name, O_EXCL: it cannot be given one. Its room is reserved. */
static int reserved_file(const struct site *site, uint64_t bytes)
{
	int fd = openat(site->fd, ".", O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600), status = -1;
	pid_t child, parent = getpid();

	if (fd < 0)
		return -errno;
	if (fchown(fd, site->service, site->service_gid) == 0) {
		child = fork();
		if (child == 0)
			reserve(site, fd, bytes, parent);
		status = child < 0 ? -1 : status_of(child);
	}
	if (status == 0)
		return fd;
	close(fd);
	if (status == EDQUOT)
		status = ENOSPC; /* of the service account: to the user the disk is full */
	return status > 0 ? -status : -EIO;
}

int upper_make(const struct site *site, uint64_t bytes, struct upper *ret, char *ret_detail, unsigned int size)
{
	int file, image, err;

	snprintf(ret_detail, size, "mke2fs (of e2fsprogs, in /usr/sbin or /sbin)");
	image = format(site, bytes);
	if (image < 0)
		return image;
	snprintf(ret_detail, size, "cannot reserve %ju MiB on the shared store's disk", (uintmax_t)bytes >> 20);
	file = reserved_file(site, bytes);
	err = file < 0 ? file : copy(image, file);
	close(image);
	if (!err) {
		snprintf(ret_detail, size, "loop device");
		/* Without the page cache of the file below, where the disk can: each page would be there twice. */
		ret->device = loop_attach(file, LO_FLAGS_DIRECT_IO, ret->path, sizeof(ret->path));
		err = ret->device < 0 ? ret->device : 0;
	}
	if (file >= 0)
		close(file); /* from here on the loop device alone keeps it */
	return err;
}

/* A file system that does not outlive its step writes nothing for the sake of a crash: no barriers; and no thread fills
 * the tables of inodes with the zeros that are there. */
int upper_mount(const struct upper *upper)
{
	int fs = (int)syscall(SYS_fsopen, "ext4", FSOPEN_CLOEXEC), fd = -1, err = 0;

	if (fs < 0)
		return -errno;
	if (syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "source", upper->path, 0) < 0 ||
	    syscall(SYS_fsconfig, fs, FSCONFIG_SET_FLAG, "nobarrier", NULL, 0) < 0 ||
	    syscall(SYS_fsconfig, fs, FSCONFIG_SET_FLAG, "noinit_itable", NULL, 0) < 0 ||
	    syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		err = -errno;
	if (!err) {
		fd = (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC,
				  MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOATIME);
		err = fd < 0 ? -errno : 0;
	}
	close(fs);
	return err ? err : fd;
}
