/* SPDX-License-Identifier: Apache-2.0 */
#include "tree_node.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

int tree_set_xattrs(struct tree *tree, int fd, const struct sink_entry *entry)
{
	for (size_t i = 0; i < entry->xattr_count; i++) {
		const struct sink_xattr *xattr = &entry->xattrs[i];

		if (fsetxattr(fd, xattr->name, xattr->value, xattr->size, 0) == 0)
			continue;
		switch (errno) {
		case EOPNOTSUPP: /* the file system has none */
		case E2BIG:	 /* larger than Linux allows */
		case ERANGE:
		case ENOSPC: /* ext4, for one that does not fit into its block: a full disk shows at the next write */
			sink_warn(tree->sink.stats, SINK_WARN_XATTR_UNSUPPORTED, entry->path);
			break;
		default:
			return tree_failed(tree, -errno, "set an extended attribute of");
		}
	}
	return 0;
}

int tree_clear_xattrs(int fd)
{
	ssize_t size = flistxattr(fd, NULL, 0);
	char *names;
	int rc = 0;

	if (size <= 0)
		return size == 0 || errno == EOPNOTSUPP ? 0 : -errno;
	names = malloc((size_t)size);
	if (!names)
		return -ENOMEM;
	size = flistxattr(fd, names, (size_t)size);
	if (size < 0)
		rc = -errno;
	for (ssize_t at = 0; at < size && !rc; at += (ssize_t)strlen(names + at) + 1) {
		if (strncmp(names + at, "user.", 5) == 0 && fremovexattr(fd, names + at) < 0 && errno != ENODATA)
			rc = -errno;
	}
	free(names);
	return rc;
}

static int settle_node(struct tree *tree, struct tree_node *node)
{
	struct timespec times[2];
	int fd, rc = 0;

	fd = tree_open_node(tree, node, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return fd;
	times[0].tv_sec = times[1].tv_sec = node->mtime_s;
	times[0].tv_nsec = times[1].tv_nsec = node->mtime_ns;
	/* The root keeps u+rwx: it is where its owner enters. */
	if (fchmod(fd, node->mode | (node->parent ? 0 : 0700)) < 0 || futimens(fd, times) < 0)
		rc = -errno;
	close(fd);
	return rc;
}

/* Give every directory its mode and time, the deepest first: after that its parents may shut, and nothing changes
 * in them any more. */
int tree_settle(struct tree *tree)
{
	const uint8_t changed = TREE_LISTED | TREE_IMPLIED | TREE_OPENED | TREE_TOUCHED;

	tree_forget_near(tree);
	for (struct tree_node *node = tree_node_first(tree->root); node; node = tree_node_after(tree->root, node)) {
		int rc = (node->flags & changed) ? settle_node(tree, node) : 0;

		if (rc)
			return tree_failed(tree, rc, "set mode and time of a directory in");
	}
	return 0;
}
