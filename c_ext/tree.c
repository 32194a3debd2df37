/* SPDX-License-Identifier: Apache-2.0 */
#include "tree.h"
#include "tree_node.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct tree *tree_of(struct sink *sink)
{
	return (struct tree *)sink;
}

static int tree_begin_layer(struct sink *sink)
{
	struct tree *tree = tree_of(sink);
	struct stat st;
	int rc;

	tree_forget_near(tree);
	if (fstat(tree->rootfd, &st) < 0)
		return sink_failed(sink->report, -errno, "read");
	rc = tree_nodes_begin(tree, &st);
	return rc ? sink_failed(sink->report, rc, "read") : 0;
}

static int tree_end_layer(struct sink *sink)
{
	struct tree *tree = tree_of(sink);
	int rc = tree_settle(tree);

	tree_forget_near(tree);
	tree_nodes_end(tree);
	return rc;
}

static void tree_close(struct sink *sink)
{
	struct tree *tree = tree_of(sink);

	if (tree->filefd >= 0)
		close(tree->filefd);
	tree_forget_near(tree);
	tree_nodes_end(tree);
	free(tree->chain);
	walk_free(&tree->walk);
	free(tree);
}

/* Something is there already: the layer's own (a duplicate, the last one wins) or a lower layer's (replaced). */
static int make_room(struct tree *tree, struct tree_node *dir, const char *name, const char *path)
{
	struct tree_node *node = tree_node_find(tree, dir, name, strlen(name));

	if (node ? node->flags & TREE_LISTED : tree_made(tree, dir, name))
		sink_warn(tree->sink.stats, SINK_WARN_DUPLICATE, path);
	return tree_clear_name(tree, dir, name);
}

static int set_time(int dirfd, const char *name, const struct sink_entry *entry)
{
	struct timespec times[2];

	times[0].tv_sec = times[1].tv_sec = entry->mtime_s;
	times[0].tv_nsec = times[1].tv_nsec = entry->mtime_ns;
	return utimensat(dirfd, name, times, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

/* One attempt to make an entry that is no directory; a new inode every time, never a write into an old one, which
 * other names may share. */
static int create(struct tree *tree, int dirfd, const char *name, const struct sink_entry *entry)
{
	int rc = 0;

	switch (entry->type) {
	case SINK_FILE:
		tree->filefd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (tree->filefd < 0)
			rc = -errno;
		return rc;
	case SINK_SYMLINK:
		if (symlinkat(entry->link, dirfd, name) < 0)
			rc = -errno;
		break;
	default:
		if (mknodat(dirfd, name, S_IFIFO | 0600, 0) < 0)
			rc = -errno;
		else /* by name: opening a FIFO waits for its other end */
			rc = tree_set_mode(dirfd, name, entry->mode);
		break;
	}
	return rc ? rc : set_time(dirfd, name, entry);
}

static int begin_file(struct tree *tree, const struct sink_entry *entry)
{
	tree->written = 0;
	tree->file.size = entry->size;
	tree->file.mode = entry->mode;
	tree->file.mtime_s = entry->mtime_s;
	tree->file.mtime_ns = entry->mtime_ns;
	if (!entry->xattr_count)
		return 0;
	/* Now, while the owner may write: the kernel asks the mode and not the descriptor. */
	if (fchmod(tree->filefd, 0600) < 0)
		return tree_failed(tree, -errno, "set the mode of");
	return tree_set_xattrs(tree, tree->filefd, entry);
}

static int put_other(struct tree *tree, struct tree_node *dir, const char *name, const struct sink_entry *entry)
{
	int fd, rc;

	fd = tree_near(tree, dir);
	if (fd < 0)
		return tree_failed(tree, fd, "create");
	rc = create(tree, fd, name, entry);
	if (rc == -EEXIST) {
		rc = make_room(tree, dir, name, entry->path);
		if (!rc)
			rc = create(tree, fd, name, entry);
	}
	if (!rc)
		rc = tree_made_add(tree, dir, name);
	if (rc)
		return tree_failed(tree, rc, "create");
	dir->flags |= TREE_TOUCHED;
	return entry->type == SINK_FILE ? begin_file(tree, entry) : 0;
}

static int link_name(struct tree *tree, int targetfd, const char *target, struct tree_node *dir, const char *name,
		     const struct sink_entry *entry)
{
	int fd = tree_near(tree, dir), rc;

	if (fd < 0)
		return fd;
	if (linkat(targetfd, target, fd, name, 0) == 0)
		return 0;
	if (errno != EEXIST)
		return -errno;
	rc = make_room(tree, dir, name, entry->path);
	if (rc)
		return rc;
	return linkat(targetfd, target, fd, name, 0) < 0 ? -errno : 0;
}

/* The name is another one for a file that exists; flags 0 to linkat: a symbolic link is linked itself. */
static int put_link(struct tree *tree, struct tree_node *dir, const char *name, const struct sink_entry *entry)
{
	struct sink_report *report = tree->sink.report;
	struct tree_node *target_dir;
	const char *target;
	struct stat st;
	int fd, rc;

	rc = tree_parent(tree, entry->link, false, &target_dir, &target);
	if (rc == -ENOENT)
		return sink_refuse(report, "hard link to a missing file");
	if (rc)
		return tree_failed(tree, rc, "find the target of");
	if (!*target)
		return sink_refuse(report, "hard link to a directory");
	fd = tree_open_node(tree, target_dir, O_PATH | O_DIRECTORY);
	if (fd < 0)
		return tree_failed(tree, fd, "find the target of");
	if (fstatat(fd, target, &st, AT_SYMLINK_NOFOLLOW) < 0)
		rc = errno == ENOENT ? sink_refuse(report, "hard link to a missing file") : -errno;
	else if (S_ISDIR(st.st_mode))
		rc = sink_refuse(report, "hard link to a directory");
	else if (target_dir == dir && strcmp(target, name) == 0)
		rc = sink_refuse(report, "hard link to itself");
	else
		rc = link_name(tree, fd, target, dir, name, entry);
	close(fd);
	if (rc == -ENOENT) /* it lay in what this entry replaces */
		return sink_refuse(report, "hard link to a missing file");
	if (!rc)
		rc = tree_made_add(tree, dir, name);
	dir->flags |= TREE_TOUCHED;
	return tree_failed(tree, rc, "link");
}

/* Find or make the directory; *ret_fresh tells which. */
static int have_dir(struct tree *tree, struct tree_node *dir, const char *name, const char *path, bool *ret_fresh,
		    struct tree_node **ret_node)
{
	static const struct stat fresh = { .st_mode = S_IFDIR | 0700 };
	struct stat st;
	int fd, rc;

	*ret_fresh = false;
	*ret_node = tree_node_find(tree, dir, name, strlen(name));
	if (*ret_node)
		return 0;
	fd = tree_near(tree, dir);
	if (fd < 0)
		return fd;
	if (mkdirat(fd, name, 0700) < 0) {
		if (errno != EEXIST)
			return -errno;
		if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return -errno;
		if (S_ISDIR(st.st_mode))
			return tree_enter(tree, dir, name, strlen(name), &st, ret_node);
		rc = make_room(tree, dir, name, path);
		if (rc)
			return rc;
		if (mkdirat(fd, name, 0700) < 0)
			return -errno;
	}
	*ret_fresh = true;
	dir->flags |= TREE_TOUCHED;
	rc = tree_set_mode(fd, name, 0700); /* whatever the umask */
	return rc ? rc : tree_enter(tree, dir, name, strlen(name), &fresh, ret_node);
}

static int put_dir(struct tree *tree, struct tree_node *dir, const char *name, const struct sink_entry *entry)
{
	struct tree_node *node = tree->root;
	bool fresh = false;
	int fd, rc = 0;

	if (*name)
		rc = have_dir(tree, dir, name, entry->path, &fresh, &node);
	if (rc)
		return tree_failed(tree, rc, "create");
	if (node->flags & TREE_LISTED)
		sink_warn(tree->sink.stats, SINK_WARN_DUPLICATE, entry->path);
	node->flags |= TREE_LISTED;
	node->mode = entry->mode & 07777;
	node->mtime_s = entry->mtime_s;
	node->mtime_ns = entry->mtime_ns;
	if (fresh && !entry->xattr_count)
		return 0;
	fd = tree_open_node(tree, node, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return tree_failed(tree, fd, "open");
	/* The entry describes the directory as a whole: what a lower layer said of it no longer holds. */
	if (!fresh)
		rc = tree_failed(tree, tree_clear_xattrs(fd), "clear the extended attributes of");
	if (!rc)
		rc = tree_set_xattrs(tree, fd, entry);
	close(fd);
	return rc;
}

static int tree_entry(struct sink *sink, const struct sink_entry *entry)
{
	struct tree *tree = tree_of(sink);
	struct tree_node *dir;
	const char *name;
	int rc;

	rc = tree_parent(tree, entry->path, true, &dir, &name);
	if (rc)
		return tree_failed(tree, rc, "create the parents of");
	switch (entry->type) {
	case SINK_DIR:
		return put_dir(tree, dir, name, entry);
	case SINK_LINK:
		return put_link(tree, dir, name, entry);
	default:
		return put_other(tree, dir, name, entry);
	}
}

static int tree_data(struct sink *sink, uint64_t offset, const void *data, size_t size)
{
	struct tree *tree = tree_of(sink);
	const char *p = data;

	while (size) {
		ssize_t written = pwrite(tree->filefd, p, size, (off_t)offset);

		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0)
			return sink_failed(sink->report, -errno, "write");
		p += written;
		offset += (uint64_t)written;
		size -= (size_t)written;
	}
	tree->written = offset;
	return 0;
}

static int tree_end_entry(struct sink *sink)
{
	struct tree *tree = tree_of(sink);
	struct timespec times[2];
	int rc = 0;

	times[0].tv_sec = times[1].tv_sec = tree->file.mtime_s;
	times[0].tv_nsec = times[1].tv_nsec = tree->file.mtime_ns;
	if (tree->written < tree->file.size && ftruncate(tree->filefd, (off_t)tree->file.size) < 0)
		rc = -errno;
	if (!rc && (fchmod(tree->filefd, tree->file.mode) < 0 || futimens(tree->filefd, times) < 0))
		rc = -errno;
	/* Network file systems tell of a failed write only here. */
	if (close(tree->filefd) < 0 && !rc)
		rc = -errno;
	tree->filefd = -1;
	return rc ? sink_failed(sink->report, rc, "write") : 0;
}

int tree_open(int rootfd, uint32_t depth, struct sink **ret_sink)
{
	static const struct sink_ops ops = {
		.begin_layer = tree_begin_layer,
		.entry = tree_entry,
		.data = tree_data,
		.end_entry = tree_end_entry,
		.whiteout = tree_whiteout,
		.opaque = tree_opaque,
		.drop = tree_drop,
		.end_layer = tree_end_layer,
		.close = tree_close,
	};
	struct tree *tree = calloc(1, sizeof(*tree));

	if (!tree)
		return -ENOMEM;
	tree->sink.ops = &ops;
	tree->rootfd = rootfd;
	tree->depth_limit = depth;
	tree->nearfd = tree->filefd = -1;
	tree->chain = calloc((size_t)depth + 1, sizeof(struct tree_node *));
	if (!tree->chain) {
		free(tree);
		return -ENOMEM;
	}
	*ret_sink = &tree->sink;
	return 0;
}
