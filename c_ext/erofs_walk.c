/* SPDX-License-Identifier: Apache-2.0 */
#include "erofs_image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "erofs_lower.h"

/* Find what the merged tree has at a name, below too: -ENOENT when there is nothing. */
int erofs_look(struct erofs_image *image, struct erofs_inode *dir, const char *name, size_t size,
	       struct erofs_node **ret_node)
{
	struct erofs_node *node = erofs_node_find(image, dir, name, size);
	struct erofs_inode *inode;
	int rc;

	*ret_node = node;
	if (node)
		return node->inode ? 0 : -ENOENT;
	if (dir->flags & EROFS_BARE)
		return -ENOENT;
	image->facts.asked = true;
	if (!image->lower)
		return EROFS_ASK;
	rc = erofs_lower_look(image, dir, name, size, &inode);
	if (rc || !inode)
		return rc ? rc : -ENOENT;
	rc = erofs_node_have(image, dir, name, size, ret_node);
	if (!rc)
		rc = erofs_node_adopt(image, *ret_node, inode);
	return rc;
}

/* A parent that no layer lists: an ordinary directory, and the same one whenever it is made. */
static int make_implied(struct erofs_image *image, struct erofs_inode *dir, const char *name, size_t size,
			struct erofs_inode **ret_dir)
{
	struct erofs_node *node = erofs_node_find(image, dir, name, size);
	struct erofs_inode *inode;
	int rc;

	inode = erofs_inode_new(image, SINK_DIR, &rc);
	if (!inode)
		return rc;
	/* Nothing is there. Only where this layer took it away might overlayfs still see something below. */
	inode->flags = EROFS_IMPLIED | EROFS_BARE | (node ? EROFS_OPAQUE : 0);
	inode->mode = 0755;
	rc = erofs_node_have(image, dir, name, size, &node);
	if (rc)
		return rc;
	*ret_dir = inode;
	node->state = EROFS_MADE;
	return erofs_node_adopt(image, node, inode);
}

/* One name further: *ret_link is NULL, or the link to follow. */
static int step(struct erofs_image *image, struct erofs_inode **dir, const char *name, size_t size, bool create,
		const struct erofs_inode **ret_link)
{
	struct erofs_node *node;
	int rc = erofs_look(image, *dir, name, size, &node);

	*ret_link = NULL;
	if (rc == -ENOENT && create)
		return make_implied(image, *dir, name, size, dir);
	if (rc)
		return rc;
	if (node->inode->type == SINK_SYMLINK)
		*ret_link = node->inode;
	else if (node->inode->type == SINK_DIR)
		*dir = node->inode;
	else
		rc = -ENOTDIR;
	return rc;
}

/* Resolve the first size bytes of path as a process would after chroot into the tree, to a directory. */
int erofs_walk(struct erofs_image *image, const char *path, size_t size, bool create, struct erofs_inode **ret_dir)
{
	int next, rc = walk_begin(&image->walk, path, size);
	const struct erofs_inode *link;
	struct erofs_inode *dir = image->root;
	char name[NAME_MAX + 1];
	size_t length;

	if (rc)
		return rc;
	while ((next = walk_next(&image->walk, name, &length)) > 0) {
		if (next == WALK_UP) {
			dir = dir->dir.node ? dir->dir.node->dir : dir;
			continue;
		}
		rc = step(image, &dir, name, length, create, &link);
		if (rc)
			return rc;
		if (!link)
			continue;
		rc = walk_link(&image->walk, link->tail, (size_t)link->size);
		if (rc)
			return rc;
		dir = *(const char *)link->tail == '/' ? image->root : dir;
	}
	*ret_dir = dir;
	return next;
}

int erofs_parent(struct erofs_image *image, const char *path, bool create, struct erofs_inode **ret_dir,
		 const char **ret_name)
{
	const char *slash = strrchr(path, '/');

	*ret_name = slash ? slash + 1 : path;
	return erofs_walk(image, path, slash ? (size_t)(slash - path) : 0, create, ret_dir);
}
