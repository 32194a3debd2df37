/* SPDX-License-Identifier: Apache-2.0 */
#include "tree_node.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int tree_failed(struct tree *tree, int rc, const char *operation)
{
	return sink_path_failed(tree->sink.report, rc, operation);
}

void tree_forget_near(struct tree *tree)
{
	if (tree->nearfd >= 0)
		close(tree->nearfd);
	tree->nearfd = -1;
	tree->near = NULL;
}

/* Symlinks are an error here, not a detour: the path is real, or someone else is at work in the tree. */
static int open_beneath(int dirfd, const char *path, int flags)
{
	struct open_how how = {
		.flags = (uint64_t)(unsigned int)(flags | O_CLOEXEC),
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	long fd;

	do {
		fd = syscall(SYS_openat2, dirfd, path, &how, sizeof(how));
	} while (fd < 0 && (errno == EAGAIN || errno == EINTR));
	return fd < 0 ? -errno : (int)fd;
}

int tree_open_node(struct tree *tree, struct tree_node *node, int flags)
{
	struct tree_node *up = node;
	size_t count = 0, used = 0;
	char path[PATH_MAX];
	int base, fd = -1;

	for (; up->parent && up != tree->near; up = up->parent)
		tree->chain[count++] = up;
	base = up->parent ? tree->nearfd : tree->rootfd;
	if (!count)
		return open_beneath(base, ".", flags);
	while (count) {
		struct tree_node *step = tree->chain[--count];
		int from = fd;

		if (used)
			path[used++] = '/';
		memcpy(path + used, step->name, step->size);
		used += step->size;
		path[used] = '\0';
		/* As much as one call can take: PATH_MAX counts the NUL, a name has at most NAME_MAX bytes. */
		if (count && used + 1 + NAME_MAX < sizeof(path))
			continue;
		used = 0;
		fd = open_beneath(from < 0 ? base : from, path, count ? O_PATH | O_DIRECTORY : flags);
		if (from >= 0)
			close(from);
		if (fd < 0)
			break;
	}
	return fd;
}

int tree_near(struct tree *tree, struct tree_node *dir)
{
	int fd;

	if (!dir->parent)
		return tree->rootfd;
	if (tree->near == dir)
		return tree->nearfd;
	fd = tree_open_node(tree, dir, O_PATH | O_DIRECTORY);
	if (fd < 0)
		return fd;
	tree_forget_near(tree);
	tree->near = dir;
	tree->nearfd = fd;
	return fd;
}

/* Make a node of a directory that lies on disk, and see that we may work in it. */
int tree_enter(struct tree *tree, struct tree_node *dir, const char *name, size_t size, const struct stat *st,
	       struct tree_node **ret_node)
{
	struct tree_node *node;
	int fd, rc;

	rc = tree_node_add(tree, dir, name, size, &node);
	if (rc)
		return rc;
	node->mode = st->st_mode & 07777;
	node->mtime_s = st->st_mtim.tv_sec;
	node->mtime_ns = (uint32_t)st->st_mtim.tv_nsec;
	if ((st->st_mode & 0700) != 0700) {
		fd = tree_near(tree, dir);
		rc = fd < 0 ? fd : tree_set_mode(fd, node->name, node->mode | 0700);
		if (rc)
			return rc;
		node->flags |= TREE_OPENED;
	}
	*ret_node = node;
	return 0;
}

/* A parent that no layer lists: an ordinary directory, and the same one whenever it is made. */
static int make_implied(struct tree *tree, struct tree_node *dir, const char *name, size_t size,
			struct tree_node **ret_node)
{
	static const struct stat implied = { .st_mode = S_IFDIR | 0755 };
	int fd, rc;

	fd = tree_near(tree, dir);
	if (fd < 0)
		return fd;
	if (mkdirat(fd, name, 0700) < 0)
		return -errno;
	rc = tree_set_mode(fd, name, 0700); /* whatever the umask */
	if (!rc)
		rc = tree_enter(tree, dir, name, size, &implied, ret_node);
	if (rc)
		return rc;
	(*ret_node)->flags |= TREE_IMPLIED;
	dir->flags |= TREE_TOUCHED;
	return 0;
}

/* Go on with the target of the link name in dir; 1 if that starts from the root. */
static int follow(struct tree *tree, struct tree_node *dir, const char *name)
{
	char target[PATH_MAX];
	int fd = tree_near(tree, dir), rc;
	ssize_t size;

	if (fd < 0)
		return fd;
	size = readlinkat(fd, name, target, sizeof(target));
	if (size < 0)
		return -errno;
	if (size == (ssize_t)sizeof(target)) /* it may have been cut */
		return -ENAMETOOLONG;
	rc = walk_link(&tree->walk, target, (size_t)size);
	return rc ? rc : target[0] == '/';
}

static int step(struct tree *tree, struct tree_node **dir, const char *name, size_t size, bool create, mode_t *ret_type)
{
	struct tree_node *node = tree_node_find(tree, *dir, name, size);
	struct stat st;
	int fd, rc;

	*ret_type = S_IFDIR;
	if (node) {
		*dir = node;
		return 0;
	}
	fd = tree_near(tree, *dir);
	if (fd < 0)
		return fd;
	if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno != ENOENT || !create)
			return -errno;
		rc = make_implied(tree, *dir, name, size, &node);
	} else {
		*ret_type = st.st_mode & S_IFMT;
		if (S_ISLNK(st.st_mode))
			return 0;
		if (!S_ISDIR(st.st_mode))
			return -ENOTDIR;
		rc = tree_enter(tree, *dir, name, size, &st, &node);
	}
	if (!rc)
		*dir = node;
	return rc;
}

/* Resolve the first size bytes of path as a process would after chroot into the tree, to a directory. */
int tree_walk(struct tree *tree, const char *path, size_t size, bool create, struct tree_node **ret_dir)
{
	int next, rc = walk_begin(&tree->walk, path, size);
	struct tree_node *dir = tree->root;
	char name[NAME_MAX + 1];
	size_t length;
	mode_t type;

	if (rc)
		return rc;
	while ((next = walk_next(&tree->walk, name, &length)) > 0) {
		if (next == WALK_UP) {
			dir = dir->parent ? dir->parent : dir;
			continue;
		}
		rc = step(tree, &dir, name, length, create, &type);
		if (rc)
			return rc;
		if (type == S_IFDIR)
			continue;
		rc = follow(tree, dir, name);
		if (rc < 0)
			return rc;
		dir = rc ? tree->root : dir;
	}
	*ret_dir = dir;
	return next;
}

int tree_parent(struct tree *tree, const char *path, bool create, struct tree_node **ret_dir, const char **ret_name)
{
	const char *slash = strrchr(path, '/');

	*ret_name = slash ? slash + 1 : path;
	return tree_walk(tree, path, slash ? (size_t)(slash - path) : 0, create, ret_dir);
}
