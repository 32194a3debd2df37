/* SPDX-License-Identifier: Apache-2.0
 *
 * What an entry does to the names of the merged tree; the directory sink's tree.c, without a tree. */
#include "erofs_image.h"

#include <errno.h>
#include <string.h>

#include "erofs_lower.h"

int erofs_failed(struct erofs_image *image, int rc, const char *operation)
{
	return rc == EROFS_ASK ? rc : sink_path_failed(image->sink.report, rc, operation);
}

/* Something of this layer's is replaced by the entry. */
static void warn_twice(struct erofs_image *image, const struct erofs_node *node, const char *path)
{
	const struct erofs_inode *old = node->inode;

	if (old && (old->type == SINK_DIR ? old->flags & EROFS_LISTED : node->state == EROFS_MADE))
		sink_warn(image->sink.stats, SINK_WARN_DUPLICATE, path);
}

static void describe(struct erofs_inode *dir, const struct erofs_inode *entry)
{
	dir->flags |= EROFS_LISTED;
	dir->mode = entry->mode;
	dir->mtime_s = entry->mtime_s;
	dir->mtime_ns = entry->mtime_ns;
	dir->xattrs = entry->xattrs;
	dir->xattr_size = entry->xattr_size;
}

static int put_dir(struct erofs_image *image, struct erofs_inode *dir, const char *name,
		   const struct erofs_step *step)
{
	struct erofs_inode *inode = step->inode;
	struct erofs_node *node;
	int rc;

	if (!*name) { /* the root keeps u+rwx: it is where its owner enters */
		if (image->root->flags & EROFS_LISTED)
			sink_warn(image->sink.stats, SINK_WARN_DUPLICATE, step->path);
		describe(image->root, inode);
		image->root->mode |= 0700;
		image->facts.root_listed = true;
		return 0;
	}
	node = erofs_node_find(image, dir, name, strlen(name));
	if (node)
		warn_twice(image, node, step->path);
	if (node && node->inode && node->inode->type == SINK_DIR) {
		describe(node->inode, inode);
		return 0;
	}
	/* What it replaces has already hidden what might lie below it; without that, it merges with it. */
	inode->flags = EROFS_LISTED | (dir->flags & EROFS_BARE) | (node ? EROFS_BARE | EROFS_OPAQUE : 0);
	rc = erofs_node_have(image, dir, name, strlen(name), &node);
	if (rc)
		return erofs_failed(image, rc, "create");
	node->state = EROFS_MADE;
	return erofs_failed(image, erofs_node_adopt(image, node, inode), "create");
}

int erofs_apply_entry(struct erofs_image *image, const struct erofs_step *step)
{
	struct erofs_inode *dir;
	struct erofs_node *node;
	const char *name;
	int rc;

	rc = erofs_parent(image, step->path, true, &dir, &name);
	if (rc)
		return erofs_failed(image, rc, "create the parents of");
	if (step->inode->type == SINK_DIR)
		return put_dir(image, dir, name, step);
	rc = erofs_node_have(image, dir, name, strlen(name), &node);
	if (rc)
		return erofs_failed(image, rc, "create");
	warn_twice(image, node, step->path);
	node->inode = step->inode;
	node->state = EROFS_MADE;
	return 0;
}

/* Whether dir is what this node stands for, or lies below it. */
static bool lies_in(const struct erofs_inode *dir, const struct erofs_node *node)
{
	while (dir->dir.node && dir->dir.node != node)
		dir = dir->dir.node->dir;
	return dir->dir.node == node;
}

static int put_link(struct erofs_image *image, struct erofs_inode *dir, const char *name,
		    struct erofs_inode *target_dir, const char *target, const struct erofs_step *step)
{
	struct sink_report *report = image->sink.report;
	struct erofs_node *from, *node;
	int rc;

	rc = erofs_look(image, target_dir, target, strlen(target), &from);
	if (rc == -ENOENT)
		return sink_refuse(report, "hard link to a missing file");
	if (rc)
		return erofs_failed(image, rc, "find the target of");
	if (from->inode->type == SINK_DIR)
		return sink_refuse(report, "hard link to a directory");
	if (target_dir == dir && strcmp(target, name) == 0)
		return sink_refuse(report, "hard link to itself");
	rc = erofs_node_have(image, dir, name, strlen(name), &node);
	if (rc)
		return erofs_failed(image, rc, "link");
	warn_twice(image, node, step->path);
	if (node->inode && node->inode->type == SINK_DIR && lies_in(target_dir, node))
		return sink_refuse(report, "hard link to a missing file"); /* it lay in what this entry replaces */
	if (from->inode->flags & EROFS_BELOW) {
		rc = erofs_lower_take(image, from->inode);
		if (rc)
			return erofs_failed(image, rc, "copy the target of");
	}
	if (from->state == EROFS_KNOWN)
		from->state = EROFS_TAKEN;
	node->inode = from->inode;
	node->state = EROFS_MADE;
	return 0;
}

/* The name is another one for a file that exists; a symbolic link is linked itself. */
int erofs_apply_link(struct erofs_image *image, const struct erofs_step *step)
{
	struct erofs_inode *dir, *target_dir;
	const char *name, *target;
	int rc;

	rc = erofs_parent(image, step->path, true, &dir, &name);
	if (rc)
		return erofs_failed(image, rc, "create the parents of");
	rc = erofs_parent(image, step->link, false, &target_dir, &target);
	if (rc == -ENOENT)
		return sink_refuse(image->sink.report, "hard link to a missing file");
	if (rc)
		return erofs_failed(image, rc, "find the target of");
	if (!*target)
		return sink_refuse(image->sink.report, "hard link to a directory");
	return put_link(image, dir, name, target_dir, target, step);
}
