/* SPDX-License-Identifier: Apache-2.0
 *
 * The end of a layer: what is to be written, and where.
 *
 * Overlayfs looks for whiteouts among the names of a directory when several layers have it; when only one has, it shows
 * them as they are, unless an xattr says that the directory stems from a lower one. Whether one is there is not known
 * here, so every directory with whiteouts says so.
 *
 * Source: Linux fs/overlayfs/inode.c, ovl_get_inode() (OVL_WHITEOUTS); readdir.c, ovl_dir_is_real(). */
#include "erofs_image.h"

#include <errno.h>
#include <string.h>

#include "erofs_index.h"

enum {
	BINS = 64,
	/* Two inodes with tails of this size fit into a block. Larger tails would save little, and spread the inodes. */
	TAIL_MAX = EROFS_BLOCK / 2 - (int)sizeof(struct erofs_disk_inode),
	FIRST_NID = 2, /* inode 0 is no inode to most programs */
};

bool erofs_fits_inline(const struct erofs_inode *inode, size_t tail_size)
{
	return tail_size && tail_size <= TAIL_MAX &&
	       sizeof(struct erofs_disk_inode) + erofs_xattrs_size(inode) + tail_size <= EROFS_BLOCK;
}

static bool before(const struct erofs_node *one, const struct erofs_node *two)
{
	int order = memcmp(one->name, two->name, one->size < two->size ? one->size : two->size);

	return order ? order < 0 : one->size < two->size;
}

static struct erofs_node *merge(struct erofs_image *image, struct erofs_node *one, struct erofs_node *two)
{
	struct erofs_node *list = NULL, **end = &list;

	while (one && two) {
		struct erofs_node **less = before(one, two) ? &one : &two;

		erofs_arena_breathe(&image->arena);
		*end = *less;
		end = &(*less)->next;
		*less = (*less)->next;
	}
	*end = one ? one : two;
	return list;
}

/* Merge sort of a list: no memory, and in order through what lies in order. */
static struct erofs_node *sort(struct erofs_image *image, struct erofs_node *list)
{
	struct erofs_node *bins[BINS] = { NULL }, *sorted = NULL;
	size_t i;

	while (list) {
		struct erofs_node *one = list;

		list = list->next;
		one->next = NULL;
		for (i = 0; bins[i]; i++) {
			one = merge(image, bins[i], one);
			bins[i] = NULL;
		}
		bins[i] = one;
	}
	for (i = 0; i < BINS; i++)
		sorted = merge(image, bins[i], sorted);
	return sorted;
}

/* Decide what becomes of a name; false when nothing of it is written. */
static bool settle_name(struct erofs_image *image, struct erofs_inode *dir, struct erofs_node *node)
{
	/* What is below an index shows only through it. */
	bool merges = !image->index && (!(dir->flags & EROFS_BARE) || dir == image->root);

	if (!node->inode) {
		if (!merges)
			return false;
		node->inode = image->whiteout;
		dir->flags |= EROFS_ORIGIN;
		image->facts.markers++;
	} else if (node->inode->type == SINK_DIR) {
		if (!merges)
			node->inode->flags &= (uint8_t)~EROFS_OPAQUE;
		if (node->inode->flags & EROFS_OPAQUE)
			image->facts.markers++;
		dir->nlink++;
		return true;
	} else if (node->state == EROFS_KNOWN) {
		return false;
	}
	node->inode->nlink++;
	return true;
}

/* The names that go into one block, from node on; returns the first one that does not. */
const struct erofs_node *erofs_dir_block(struct erofs_image *image, const struct erofs_node *node, size_t *ret_count,
					 size_t *ret_size)
{
	size_t count = 0, size = 0;

	for (; node; node = node->next, count++) {
		size_t more = sizeof(struct erofs_dirent) + node->size;

		erofs_arena_breathe(&image->arena);
		if (size + more > EROFS_BLOCK)
			break;
		size += more;
	}
	*ret_count = count;
	*ret_size = size;
	return node;
}

static void measure(struct erofs_image *image, struct erofs_inode *dir)
{
	const struct erofs_node *node = dir->dir.child, *start = node;
	size_t count, size = 0;

	dir->size = 0;
	while (node) {
		start = node;
		node = erofs_dir_block(image, node, &count, &size);
		dir->size += node ? EROFS_BLOCK : size;
	}
	if (erofs_fits_inline(dir, size)) {
		dir->tail_size = (uint32_t)size;
		dir->tail = (void *)start;
	}
}

/* Put a copy of the node before list. What comes next goes through the names of one directory many times; entries of an
 * archive in no order would have them scattered over the whole arena. */
static int gather(struct erofs_image *image, const struct erofs_node *node, struct erofs_node **list)
{
	size_t size = sizeof(*node) + node->size + 1;
	struct erofs_node *copy;
	int rc = 0;

	copy = erofs_arena_take(&image->arena, &image->gathered, size, &rc);
	if (!copy)
		return rc;
	memcpy(copy, node, size);
	copy->next = *list;
	*list = copy;
	if (erofs_is_dir(node))
		node->inode->dir.node = copy;
	return 0;
}

static int settle(struct erofs_image *image, struct erofs_inode *dir)
{
	struct erofs_inode *after = dir->dir.after, **end = &dir->dir.after;
	struct erofs_node *list = NULL;
	int rc;

	dir->nlink = 2;
	rc = erofs_node_dots(image, dir);
	for (struct erofs_node *node = dir->dir.child; node && !rc; node = node->next) {
		erofs_arena_breathe(&image->arena);
		if (node->state != EROFS_DOTS && !settle_name(image, dir, node))
			continue;
		rc = gather(image, node, &list);
		if (erofs_is_dir(node)) { /* its directories come next, before whatever comes after it */
			*end = node->inode;
			end = &node->inode->dir.after;
		}
	}
	*end = after;
	dir->dir.child = sort(image, list);
	measure(image, dir);
	return rc;
}

static uint64_t blocks_of(const struct erofs_inode *inode)
{
	return (inode->size - inode->tail_size + EROFS_BLOCK - 1) / EROFS_BLOCK;
}

/* Give an inode the next place where it may stand: itself within a block, and with its tail if it has one. */
static void place(struct erofs_image *image, struct erofs_inode *inode)
{
	uint64_t at = (image->end + 31) & ~UINT64_C(31);
	size_t size = sizeof(struct erofs_disk_inode) + erofs_xattrs_size(inode);
	size_t together = inode->tail_size ? size + inode->tail_size : sizeof(struct erofs_disk_inode);

	if (at % EROFS_BLOCK + together > EROFS_BLOCK)
		at = (at + EROFS_BLOCK - 1) & ~(uint64_t)(EROFS_BLOCK - 1);
	inode->nid = (uint32_t)((at - image->meta_start) >> EROFS_NID_BITS);
	image->end = at + size + inode->tail_size;
	image->facts.inodes++;
}

int erofs_layout(struct erofs_image *image)
{
	uint64_t at = erofs_output_at(&image->out);
	struct erofs_inode *dir;
	int rc = 0;

	image->whiteout = erofs_inode_new(image, SINK_CHAR, &rc);
	if (!image->whiteout)
		return rc;
	image->root->flags &= (uint8_t)~EROFS_OPAQUE;
	for (dir = image->root; dir && !rc; dir = dir->dir.after) {
		rc = settle(image, dir);
		dir->block = (uint32_t)(at / EROFS_BLOCK);
		at += blocks_of(dir) * EROFS_BLOCK;
	}
	image->meta_start = at;
	image->end = at + (FIRST_NID << EROFS_NID_BITS);
	/* In the order in which they were made: the root first, whose nid has 16 bits, and the files of a directory near
	 * each other, as archives have them. It is also the order of everything that is kept for them. */
	for (struct erofs_inode *inode = image->root; inode && !rc; inode = inode->next) {
		erofs_arena_breathe(&image->arena);
		if (inode->nlink)
			place(image, inode);
	}
	image->end = (image->end + EROFS_BLOCK - 1) & ~(uint64_t)(EROFS_BLOCK - 1);
	if (!rc && image->index)
		rc = erofs_index_place(image);
	if (image->end / EROFS_BLOCK > UINT32_MAX || (image->end - image->meta_start) >> EROFS_NID_BITS > UINT32_MAX)
		rc = rc ? rc : -EFBIG;
	return rc;
}
