/* SPDX-License-Identifier: Apache-2.0
 *
 * Hiding what lower layers brought: a directory becomes bare, a name stands for nothing. A whiteout may come after the
 * entries that it must spare, so what this layer made stays. */
#include "erofs_image.h"

#include <errno.h>
#include <string.h>

#include "erofs_lower.h"

enum { OF_THIS_LAYER = EROFS_LISTED | EROFS_IMPLIED };

/* There is nothing to hide below a path that leads nowhere. */
static bool leads_nowhere(int rc)
{
	return rc == -ENOENT || rc == -ENOTDIR;
}

static bool holds_something(const struct erofs_inode *dir)
{
	const struct erofs_node *node = dir->dir.child;

	while (node && !node->inode)
		node = node->next;
	return node;
}

/* A lower directory is hidden. If this layer has put something below it, what stands there now is a directory that the
 * layer implies, as it would be had the whiteout come first. */
static void hide(struct erofs_inode *dir)
{
	if (dir->flags & OF_THIS_LAYER)
		return;
	if (!holds_something(dir)) {
		dir->dir.node->inode = NULL;
		return;
	}
	dir->flags |= EROFS_IMPLIED;
	dir->mode = 0755;
	dir->mtime_s = 0;
	dir->mtime_ns = 0;
	dir->xattrs = NULL;
	dir->xattr_size = 0;
}

/* Hide everything of the lower layers below top. Every directory that stays is bare afterwards, so that a layer of
 * nothing but markers does not make us look at everything for each of them. */
static void prune(struct erofs_image *image, struct erofs_inode *top)
{
	struct erofs_inode *dir = top;
	struct erofs_node *node = top->dir.child;

	if (top->flags & EROFS_BARE)
		return;
	for (;;) {
		erofs_arena_breathe(&image->arena);
		if (!node) { /* back to where dir stands */
			dir->flags |= EROFS_BARE | EROFS_OPAQUE;
			if (dir == top)
				return;
			node = dir->dir.node;
			dir = node->dir;
			hide(node->inode);
		} else if (erofs_is_dir(node) && !(node->inode->flags & EROFS_BARE)) {
			dir = node->inode;
			node = dir->dir.child;
			continue;
		} else if (erofs_is_dir(node)) {
			hide(node->inode);
		} else if (node->state != EROFS_MADE) {
			node->inode = NULL;
		}
		node = node->next;
	}
}

int erofs_apply_whiteout(struct erofs_image *image, const struct erofs_step *step)
{
	struct erofs_inode *dir;
	struct erofs_node *node;
	const char *name;
	int rc;

	rc = erofs_parent(image, step->path, false, &dir, &name);
	if (leads_nowhere(rc))
		return 0;
	if (!rc)
		rc = erofs_node_have(image, dir, name, strlen(name), &node);
	if (rc)
		return erofs_failed(image, rc, "apply a whiteout to");
	if (erofs_is_dir(node)) {
		prune(image, node->inode);
		hide(node->inode);
	} else if (node->state != EROFS_MADE) {
		node->inode = NULL;
	}
	return 0;
}

/* A name of the lower root that this layer has not touched. */
static int hide_name(struct erofs_image *image, const char *name, size_t size)
{
	struct erofs_node *node;

	erofs_arena_breathe(&image->arena);
	return erofs_node_have(image, image->root, name, size, &node);
}

int erofs_apply_opaque(struct erofs_image *image, const struct erofs_step *step)
{
	struct erofs_inode *dir;
	int rc;

	rc = erofs_walk(image, step->path, strlen(step->path), false, &dir);
	if (leads_nowhere(rc))
		return 0;
	/* Overlayfs does not look whether a layer's root is opaque: its names have to be hidden one by one. */
	if (!rc && dir == image->root && !(dir->flags & EROFS_BARE)) {
		image->facts.asked = true;
		rc = image->lower ? erofs_lower_roots(image, hide_name) : EROFS_ASK;
	}
	if (rc)
		return erofs_failed(image, rc, "apply an opaque marker to");
	prune(image, dir);
	return 0;
}

int erofs_apply_drop(struct erofs_image *image, const struct erofs_step *step)
{
	struct erofs_inode *dir;
	struct erofs_node *node;
	const char *name;
	int rc;

	rc = erofs_parent(image, step->path, false, &dir, &name);
	if (rc == -ENOENT)
		return 0;
	if (!rc)
		rc = erofs_node_have(image, dir, name, strlen(name), &node);
	if (rc)
		return erofs_failed(image, rc, "remove");
	node->inode = NULL;
	return 0;
}
