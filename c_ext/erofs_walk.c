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

static int need_todo(struct erofs_image *image, size_t space)
{
	char *more;

	if (space <= image->todo_space)
		return 0;
	more = realloc(image->todo, space);
	if (!more)
		return -ENOMEM;
	image->todo = more;
	image->todo_space = space;
	return 0;
}

/* Put the link's target before what is left to resolve, which starts at *at of todo. */
static int splice_link(struct erofs_image *image, const struct erofs_inode *link, size_t *at)
{
	size_t rest = strlen(image->todo + *at), size = (size_t)link->size;
	int rc;

	rc = need_todo(image, size + rest + 2);
	if (rc)
		return rc;
	memmove(image->todo + size + 1, image->todo + *at, rest + 1);
	memcpy(image->todo, link->tail, size);
	image->todo[size] = '/';
	*at = 0;
	return 0;
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
	int links = 0, steps = 0, rc = need_todo(image, size + 1);
	const struct erofs_inode *link;
	struct erofs_inode *dir = image->root;
	char name[NAME_MAX + 1];
	size_t at = 0;

	if (rc)
		return rc;
	memcpy(image->todo, path, size);
	image->todo[size] = '\0';
	for (;;) {
		const char *start;
		size_t length;

		at += strspn(image->todo + at, "/");
		start = image->todo + at;
		length = strcspn(start, "/");
		if (!length)
			break;
		if (length > NAME_MAX)
			return -ENAMETOOLONG;
		if (++steps > SINK_STEPS_MAX)
			return -ELOOP;
		memcpy(name, start, length);
		name[length] = '\0';
		at += length;
		if (strcmp(name, ".") == 0)
			continue;
		if (strcmp(name, "..") == 0) {
			dir = dir->dir.node ? dir->dir.node->dir : dir;
			continue;
		}
		rc = step(image, &dir, name, length, create, &link);
		if (rc)
			return rc;
		if (!link)
			continue;
		if (++links > SINK_LINKS_MAX)
			return -ELOOP;
		rc = splice_link(image, link, &at);
		if (rc)
			return rc;
		dir = *(const char *)link->tail == '/' ? image->root : dir;
	}
	*ret_dir = dir;
	return 0;
}

int erofs_parent(struct erofs_image *image, const char *path, bool create, struct erofs_inode **ret_dir,
		 const char **ret_name)
{
	const char *slash = strrchr(path, '/');

	*ret_name = slash ? slash + 1 : path;
	return erofs_walk(image, path, slash ? (size_t)(slash - path) : 0, create, ret_dir);
}
