/* SPDX-License-Identifier: Apache-2.0 */
#include "erofs_image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "name_hash.h"

/* A slot names a node by 32 bits: the chunk, and the offset in it in units of 8 bytes. With the hash beside it, the
 * table grows, and most searches end, without a look at any node. */
enum { FIRST_SLOTS = 1024, UNIT = 8, CHUNK_UNITS = EROFS_ARENA_CHUNK / UNIT };

static struct erofs_node *node_at(const struct erofs_image *image, uint32_t place)
{
	return (struct erofs_node *)(image->chunks[place / CHUNK_UNITS] + (size_t)(place % CHUNK_UNITS) * UNIT);
}

static uint32_t hash(const struct erofs_image *image, const struct erofs_inode *dir, const char *name, size_t size)
{
	return (uint32_t)name_hash(image->key, (uintptr_t)dir, name, size);
}

int erofs_nodes_begin(struct erofs_image *image)
{
	int rc = name_hash_key(image->key);

	if (rc)
		return rc;
	image->slots = erofs_arena_map(&image->arena, FIRST_SLOTS * sizeof(*image->slots), &rc);
	if (!image->slots)
		return rc;
	image->slot_count = FIRST_SLOTS;
	image->inodes_end = &image->root;
	if (!erofs_inode_new(image, SINK_DIR, &rc))
		return rc;
	image->root->mode = 0755;
	return 0;
}

static struct erofs_node *find(const struct erofs_image *image, const struct erofs_inode *dir, const char *name,
			       size_t size, uint32_t value)
{
	for (size_t at = value & (image->slot_count - 1); image->slots[at].node; at = (at + 1) & (image->slot_count - 1)) {
		struct erofs_node *node;

		if (image->slots[at].hash != value)
			continue;
		node = node_at(image, image->slots[at].node);
		if (node->dir == dir && node->size == size && memcmp(node->name, name, size) == 0)
			return node;
	}
	return NULL;
}

struct erofs_node *erofs_node_find(const struct erofs_image *image, const struct erofs_inode *dir, const char *name,
				   size_t size)
{
	return find(image, dir, name, size, hash(image, dir, name, size));
}

static void put_slot(struct erofs_slot *slots, size_t count, struct erofs_slot slot)
{
	size_t at = slot.hash & (count - 1);

	while (slots[at].node)
		at = (at + 1) & (count - 1);
	slots[at] = slot;
}

static int grow(struct erofs_image *image)
{
	size_t count = 2 * image->slot_count;
	struct erofs_slot *slots;
	int rc;

	slots = erofs_arena_map(&image->arena, count * sizeof(*slots), &rc);
	if (!slots)
		return rc;
	for (size_t i = 0; i < image->slot_count; i++) {
		if (image->slots[i].node)
			put_slot(slots, count, image->slots[i]);
	}
	erofs_arena_unmap(&image->arena, image->slots);
	image->slots = slots;
	image->slot_count = count;
	return 0;
}

/* Remember where chunks of nodes begin. The first one begins with the root's inode, so no node lies at 0. */
static int note_chunk(struct erofs_image *image)
{
	if (image->chunk_count == image->chunk_space) {
		size_t space = image->chunk_space ? 2 * image->chunk_space : 16;
		char **chunks = reallocarray(image->chunks, space, sizeof(*chunks));

		if (!chunks)
			return -ENOMEM;
		image->chunks = chunks;
		image->chunk_space = space;
	}
	if (image->chunk_count >= UINT32_MAX / CHUNK_UNITS)
		return -ENOMEM;
	image->chunks[image->chunk_count++] = image->names.at + image->names.left - EROFS_ARENA_CHUNK;
	return 0;
}

/* From the stream of names, which holds nodes and inodes; *ret_place is where it lies, in units. */
static void *take_name(struct erofs_image *image, size_t size, uint32_t *ret_place, int *ret_rc)
{
	size_t maps = image->arena.count;
	char *piece;

	piece = erofs_arena_take(&image->arena, &image->names, size, ret_rc);
	if (!piece)
		return NULL;
	if (image->arena.count != maps) {
		*ret_rc = note_chunk(image);
		if (*ret_rc)
			return NULL;
	}
	*ret_place = (uint32_t)((image->chunk_count - 1) * CHUNK_UNITS +
				(size_t)(piece - image->chunks[image->chunk_count - 1]) / UNIT);
	return piece;
}

static struct erofs_node *new_node(struct erofs_image *image, struct erofs_inode *dir, const char *name, size_t size,
				   uint32_t *ret_place, int *ret_rc)
{
	struct erofs_node *node = take_name(image, sizeof(*node) + size + 1, ret_place, ret_rc);

	if (!node)
		return NULL;
	memcpy(node->name, name, size);
	node->size = (uint8_t)size;
	node->dir = dir;
	node->next = dir->dir.child;
	dir->dir.child = node;
	return node;
}

int erofs_node_have(struct erofs_image *image, struct erofs_inode *dir, const char *name, size_t size,
		    struct erofs_node **ret_node)
{
	uint32_t value = hash(image, dir, name, size), place;
	int rc = 0;

	if (size > NAME_MAX)
		return -ENAMETOOLONG;
	*ret_node = find(image, dir, name, size, value);
	if (*ret_node)
		return 0;
	if (2 * image->node_count >= image->slot_count)
		rc = grow(image);
	if (rc)
		return rc;
	*ret_node = new_node(image, dir, name, size, &place, &rc);
	if (!*ret_node)
		return rc;
	put_slot(image->slots, image->slot_count, (struct erofs_slot){ value, place });
	image->node_count++;
	return 0;
}

int erofs_node_dots(struct erofs_image *image, struct erofs_inode *dir)
{
	struct erofs_inode *parent = dir->dir.node ? dir->dir.node->dir : dir;
	struct erofs_node *one, *two;
	uint32_t place;
	int rc;

	one = new_node(image, dir, ".", 1, &place, &rc);
	two = one ? new_node(image, dir, "..", 2, &place, &rc) : NULL;
	if (!two)
		return rc;
	one->inode = dir;
	two->inode = parent;
	one->state = two->state = EROFS_DOTS;
	return 0;
}

/* Let the name stand for this inode; a directory has one name, and a depth. */
int erofs_node_adopt(struct erofs_image *image, struct erofs_node *node, struct erofs_inode *inode)
{
	if (inode->type == SINK_DIR) {
		if (node->dir->dir.depth >= image->depth_limit)
			return -E2BIG;
		inode->dir.depth = node->dir->dir.depth + 1;
		inode->dir.node = node;
	}
	node->inode = inode;
	return 0;
}

struct erofs_inode *erofs_inode_new(struct erofs_image *image, enum sink_type type, int *ret_rc)
{
	/* Most are no directories, and do without what only those have. */
	size_t size = offsetof(struct erofs_inode, below) + sizeof(((struct erofs_inode *)0)->below);
	struct erofs_inode *inode;
	uint32_t place;

	inode = take_name(image, type == SINK_DIR ? sizeof(*inode) : size, &place, ret_rc);

	if (!inode)
		return NULL;
	inode->type = (uint8_t)type;
	*image->inodes_end = inode;
	image->inodes_end = &inode->next;
	return inode;
}

void *erofs_body(struct erofs_image *image, const void *data, size_t size, int *ret_rc)
{
	void *body = erofs_arena_take(&image->arena, &image->bodies, size, ret_rc);

	if (body && data)
		memcpy(body, data, size);
	return body;
}
