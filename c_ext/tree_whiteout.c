/* SPDX-License-Identifier: Apache-2.0
 *
 * Hiding what lower layers brought. A whiteout may come after the entries that it must spare ("d/", "d/new", then
 * ".wh.d"), so what this layer made is known by name, and everything else goes. */
#include "tree.h"
#include "tree_node.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { OF_THIS_LAYER = TREE_LISTED | TREE_IMPLIED };

/* There is nothing to hide below a path that leads nowhere. */
static bool leads_nowhere(int rc)
{
	return rc == -ENOENT || rc == -ENOTDIR;
}

int tree_clear_name(struct tree *tree, struct tree_node *dir, const char *name)
{
	struct tree_node *node = tree_node_find(tree, dir, name, strlen(name));
	int fd;

	if (node)
		tree_node_drop(tree, node);
	fd = tree_near(tree, dir);
	if (fd < 0)
		return fd;
	dir->flags |= TREE_TOUCHED;
	return tree_remove(fd, name);
}

/* Remove from one directory what this layer did not make. Its subdirectories with nodes have had their turn. */
static int prune_one(struct tree *tree, struct tree_node *node, bool *ret_kept)
{
	struct dirent *item;
	int fd, rc = 0;
	DIR *dir;

	*ret_kept = false;
	fd = tree_open_node(tree, node, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return fd;
	dir = fdopendir(fd);
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
		if (strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0)
			continue;
		if (tree_made(tree, node, item->d_name) ||
		    tree_node_find(tree, node, item->d_name, strlen(item->d_name))) {
			*ret_kept = true;
			continue;
		}
		node->flags |= TREE_TOUCHED;
		rc = tree_remove(fd, item->d_name);
	}
	closedir(dir);
	return rc;
}

/* A lower directory was hidden, yet this layer has put something below it: what stands there now is a directory that
 * the layer implies, as it would be had the whiteout come first. */
static int become_implied(struct tree *tree, struct tree_node *node)
{
	int fd = tree_open_node(tree, node, O_RDONLY | O_DIRECTORY), rc;

	if (fd < 0)
		return fd;
	rc = tree_clear_xattrs(fd);
	close(fd);
	node->flags |= TREE_IMPLIED;
	node->mode = 0755;
	node->mtime_s = 0;
	node->mtime_ns = 0;
	return rc;
}

static int remove_node(struct tree *tree, struct tree_node *node)
{
	int fd = tree_near(tree, node->parent);

	if (fd < 0)
		return fd;
	if (unlinkat(fd, node->name, AT_REMOVEDIR) < 0)
		return -errno;
	node->parent->flags |= TREE_TOUCHED;
	tree_node_drop(tree, node);
	return 0;
}

static int hide(struct tree *tree, struct tree_node *node, bool kept)
{
	if (node->flags & OF_THIS_LAYER)
		return 0;
	return kept ? become_implied(tree, node) : remove_node(tree, node);
}

/* Children before parents, leaving out what lies below a clean directory. */
static struct tree_node *first_unclean(struct tree_node *node)
{
	while (node->child && !(node->flags & TREE_CLEAN))
		node = node->child;
	return node;
}

/* Hide everything below top, and top too unless only its content is meant. Every directory that stays is clean
 * afterwards: without that, a layer of nothing but markers would make us look at everything for each of them. */
static int prune(struct tree *tree, struct tree_node *top, bool content_only)
{
	struct tree_node *next, *node;
	int rc = 0;

	for (node = top; node; node = node->parent) {
		if (node->flags & TREE_CLEAN && (node != top || content_only || node->flags & OF_THIS_LAYER))
			return 0;
	}
	for (node = first_unclean(top); node && !rc; node = next) {
		bool kept = true, last = node == top;

		/* A parent or a later sibling, which does not go with node. */
		next = last ? NULL : node->next ? first_unclean(node->next) : node->parent;
		if (!(node->flags & TREE_CLEAN && node->flags & OF_THIS_LAYER))
			rc = prune_one(tree, node, &kept);
		node->flags |= TREE_CLEAN;
		if (!rc && !(last && content_only))
			rc = hide(tree, node, kept);
	}
	return rc;
}

int tree_whiteout(struct sink *sink, const char *path)
{
	struct tree *tree = (struct tree *)sink;
	struct tree_node *dir, *node;
	const char *name;
	int rc;

	rc = tree_parent(tree, path, false, &dir, &name);
	if (leads_nowhere(rc))
		return 0;
	if (!rc) {
		node = tree_node_find(tree, dir, name, strlen(name));
		if (node)
			rc = prune(tree, node, false);
		else if (!tree_made(tree, dir, name))
			rc = tree_clear_name(tree, dir, name);
	}
	return tree_failed(tree, rc, "apply a whiteout to");
}

int tree_opaque(struct sink *sink, const char *path)
{
	struct tree *tree = (struct tree *)sink;
	struct tree_node *dir;
	int rc;

	rc = tree_walk(tree, path, strlen(path), false, &dir);
	if (leads_nowhere(rc))
		return 0;
	if (!rc)
		rc = prune(tree, dir, true);
	return tree_failed(tree, rc, "apply an opaque marker to");
}

int tree_drop(struct sink *sink, const char *path)
{
	struct tree *tree = (struct tree *)sink;
	struct tree_node *dir;
	const char *name;
	int rc;

	rc = tree_parent(tree, path, false, &dir, &name);
	if (rc == -ENOENT)
		return 0;
	if (!rc)
		rc = tree_clear_name(tree, dir, name);
	return tree_failed(tree, rc, "remove");
}
