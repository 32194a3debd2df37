/* SPDX-License-Identifier: Apache-2.0 */
#include "stages.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "tree.h"

enum { BOOT_ID = 36 };

/* The first part of a stage's name: BOOT.PID.START.N. Nothing else has it, wherever a user says that the store is. */
static int boot_id(char ret[BOOT_ID + 2])
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, ret, BOOT_ID);
	close(fd);
	ret[BOOT_ID] = '.';
	ret[BOOT_ID + 1] = '\0';
	return n == BOOT_ID ? 0 : -EIO;
}

/* Its owner makes it, locks it and sees that it is still there, in this order (layout.Stage): who locks it first may
 * remove it. 1: somebody works in it. */
static int remove_if_free(int tmp, const char *name)
{
	int fd = openat(tmp, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), rc;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	rc = flock(fd, LOCK_EX | LOCK_NB) == 0 ? tree_remove(tmp, name) : errno == EWOULDBLOCK ? 1 : -errno;
	close(fd);
	return rc;
}

int stages_sweep(int store)
{
	char boot[BOOT_ID + 2];
	int err = boot_id(boot), busy = 0, tmp, rc;
	struct dirent *item;
	DIR *dir;

	if (err)
		return err;
	tmp = openat(store, "tmp", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	dir = tmp < 0 ? NULL : fdopendir(tmp);
	if (!dir) {
		err = -errno;
		if (tmp >= 0)
			close(tmp);
		return err;
	}
	while ((item = readdir(dir))) {
		if (strncmp(item->d_name, boot, BOOT_ID + 1) != 0)
			continue;
		rc = remove_if_free(dirfd(dir), item->d_name);
		err = rc < 0 ? rc : err;
		busy += rc > 0;
	}
	closedir(dir);
	return err ? err : busy;
}
