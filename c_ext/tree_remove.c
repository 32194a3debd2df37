/* SPDX-License-Identifier: Apache-2.0 */
#include "tree.h"

#include "old_headers.h"
#include "tree_node.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452 /* Linux 6.6; the same number on every architecture */
#endif

/* Directories open at once. What lies deeper is moved up to the top first, so that neither descriptors nor the stack
 * grow with a tree that someone made very deep. */
enum { LEVELS = 16 };

struct removal {
	int topfd;
	unsigned long moved; /* for names that are not taken */
};

int tree_set_mode(int dirfd, const char *name, uint32_t mode)
{
	if (syscall(SYS_fchmodat2, dirfd, name, mode, AT_SYMLINK_NOFOLLOW) == 0)
		return 0;
	if (errno != ENOSYS && errno != EPERM) /* EPERM: older seccomp filters say that of calls they do not know */
		return -errno;
	/* Older kernels can only follow. The callers have just seen, or made, something there that is no link. */
	return fchmodat(dirfd, name, mode, 0) < 0 ? -errno : 0;
}

/* Open a directory and see that we may empty it. Never through a link, never into another file system. */
static int open_dir(int dirfd, const char *name)
{
	struct open_how how = {
		.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
	};
	struct stat st;
	long fd = syscall(SYS_openat2, dirfd, name, &how, sizeof(how));

	if (fd < 0 && errno == EACCES) {
		int rc = tree_set_mode(dirfd, name, 0700);

		if (rc)
			return rc;
		fd = syscall(SYS_openat2, dirfd, name, &how, sizeof(how));
	}
	if (fd < 0)
		return -errno;
	if (fstat((int)fd, &st) == 0 && (st.st_mode & 0700) == 0700)
		return (int)fd;
	if (fchmod((int)fd, 0700) < 0) {
		int rc = -errno;

		close((int)fd);
		return rc;
	}
	return (int)fd;
}

static int empty(struct removal *removal, int fd, int level);

static int move_up(struct removal *removal, int dirfd, const char *name)
{
	char fresh[64];
	int fd = open_dir(dirfd, name); /* a directory that moves is written to: its ".." changes */

	if (fd < 0)
		return fd;
	close(fd);
	do {
		snprintf(fresh, sizeof(fresh), ".fairlead-removed-%lu", removal->moved++);
		if (renameat2(dirfd, name, removal->topfd, fresh, RENAME_NOREPLACE) == 0)
			return 0;
	} while (errno == EEXIST);
	return -errno;
}

static int remove_below(struct removal *removal, int dirfd, const char *name, bool is_dir, int level)
{
	int fd, rc;

	if (!is_dir) {
		if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
			return 0;
		if (errno != EISDIR && errno != EPERM) /* what the kernel, and what POSIX, says of a directory */
			return -errno;
	}
	if (level == LEVELS)
		return move_up(removal, dirfd, name);
	fd = open_dir(dirfd, name);
	if (fd < 0)
		return fd;
	rc = empty(removal, fd, level + 1);
	if (!rc && unlinkat(dirfd, name, AT_REMOVEDIR) < 0)
		rc = -errno;
	return rc;
}

/* Closes fd. */
static int empty(struct removal *removal, int fd, int level)
{
	DIR *dir = fdopendir(fd);
	struct dirent *item;
	int rc = 0;

	if (!dir) {
		rc = -errno;
		close(fd);
		return rc;
	}
	while (!rc) {
		errno = 0;
		item = readdir(dir);
		if (!item) {
			rc = -errno;
			break;
		}
		if (strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0)
			rc = remove_below(removal, dirfd(dir), item->d_name, item->d_type == DT_DIR, level);
	}
	closedir(dir);
	return rc;
}

int tree_remove(int dirfd, const char *name)
{
	struct removal removal = { .topfd = -1 };
	unsigned long moved;
	int fd, rc;

	if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	removal.topfd = open_dir(dirfd, name);
	if (removal.topfd < 0)
		return removal.topfd;
	do { /* again for what was moved up behind the reader's back */
		moved = removal.moved;
		fd = open_dir(dirfd, name);
		rc = fd < 0 ? fd : empty(&removal, fd, 0);
	} while (!rc && removal.moved != moved);
	close(removal.topfd);
	if (!rc && unlinkat(dirfd, name, AT_REMOVEDIR) < 0)
		rc = -errno;
	return rc;
}
