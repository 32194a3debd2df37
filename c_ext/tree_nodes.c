/* SPDX-License-Identifier: Apache-2.0 */
#include "tree_node.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "name_hash.h"

enum { FIRST_BUCKETS = 1024, FIRST_MADE = 4096 };

static uint64_t hash(const struct tree *tree, uint64_t id, const char *name, size_t size)
{
	return name_hash(tree->key, id, name, size);
}

int tree_nodes_begin(struct tree *tree, const struct stat *root)
{
	int rc = tree->key[0] ? 0 : name_hash_key(tree->key);

	if (rc)
		return rc;
	tree_nodes_end(tree);
	tree->buckets = calloc(FIRST_BUCKETS, sizeof(*tree->buckets));
	tree->made = calloc(FIRST_MADE, sizeof(*tree->made));
	tree->root = calloc(1, sizeof(*tree->root) + 1);
	if (!tree->buckets || !tree->made || !tree->root)
		return -ENOMEM;
	tree->bucket_count = FIRST_BUCKETS;
	tree->made_space = FIRST_MADE;
	tree->root->id = tree->next_id++;
	tree->root->mode = root->st_mode & 07777;
	tree->root->mtime_s = root->st_mtim.tv_sec;
	tree->root->mtime_ns = (uint32_t)root->st_mtim.tv_nsec;
	return 0;
}

void tree_nodes_end(struct tree *tree)
{
	if (tree->root) {
		while (tree->root->child)
			tree_node_drop(tree, tree->root->child);
	}
	free(tree->root);
	free(tree->buckets);
	free(tree->made);
	tree->root = NULL;
	tree->buckets = NULL;
	tree->made = NULL;
	tree->bucket_count = tree->node_count = tree->made_space = tree->made_count = 0;
}

struct tree_node *tree_node_find(struct tree *tree, struct tree_node *dir, const char *name, size_t size)
{
	struct tree_node *node = tree->buckets[hash(tree, dir->id, name, size) & (tree->bucket_count - 1)];

	while (node && (node->parent != dir || node->size != size || memcmp(node->name, name, size) != 0))
		node = node->bucket;
	return node;
}

static int grow_buckets(struct tree *tree)
{
	size_t count = tree->bucket_count * 2;
	struct tree_node **buckets = calloc(count, sizeof(*buckets));

	if (!buckets)
		return -ENOMEM;
	for (size_t i = 0; i < tree->bucket_count; i++) {
		struct tree_node *node = tree->buckets[i], *next;

		for (; node; node = next) {
			size_t at = hash(tree, node->parent->id, node->name, node->size) & (count - 1);

			next = node->bucket;
			node->bucket = buckets[at];
			buckets[at] = node;
		}
	}
	free(tree->buckets);
	tree->buckets = buckets;
	tree->bucket_count = count;
	return 0;
}

int tree_node_add(struct tree *tree, struct tree_node *dir, const char *name, size_t size, struct tree_node **ret_node)
{
	struct tree_node *node;
	size_t at;

	if (size > NAME_MAX)
		return -ENAMETOOLONG;
	if (dir->depth >= tree->depth_limit)
		return -E2BIG;
	if (tree->node_count >= tree->bucket_count && grow_buckets(tree) < 0)
		return -ENOMEM;
	node = calloc(1, sizeof(*node) + size + 1);
	if (!node)
		return -ENOMEM;
	memcpy(node->name, name, size);
	node->size = (uint8_t)size;
	node->id = tree->next_id++;
	node->depth = dir->depth + 1;
	node->parent = dir;
	node->next = dir->child;
	node->link = &dir->child;
	if (node->next)
		node->next->link = &node->next;
	dir->child = node;
	at = hash(tree, dir->id, name, size) & (tree->bucket_count - 1);
	node->bucket = tree->buckets[at];
	tree->buckets[at] = node;
	tree->node_count++;
	*ret_node = node;
	return 0;
}

static void forget(struct tree *tree, struct tree_node *node)
{
	size_t at = hash(tree, node->parent->id, node->name, node->size) & (tree->bucket_count - 1);
	struct tree_node **bucket = &tree->buckets[at];

	while (*bucket != node)
		bucket = &(*bucket)->bucket;
	*bucket = node->bucket;
	*node->link = node->next;
	if (node->next)
		node->next->link = node->link;
	if (tree->near == node)
		tree_forget_near(tree);
	tree->node_count--;
	free(node);
}

void tree_node_drop(struct tree *tree, struct tree_node *node)
{
	struct tree_node *at = tree_node_first(node);

	for (;;) {
		struct tree_node *next = at == node ? NULL : tree_node_after(node, at);

		forget(tree, at);
		if (!next)
			return;
		at = next;
	}
}

struct tree_node *tree_node_first(struct tree_node *top)
{
	while (top->child)
		top = top->child;
	return top;
}

struct tree_node *tree_node_after(struct tree_node *top, struct tree_node *node)
{
	if (node == top)
		return NULL;
	return node->next ? tree_node_first(node->next) : node->parent;
}

static size_t made_slot(const uint64_t *made, size_t space, uint64_t value)
{
	size_t at = (size_t)value & (space - 1);

	while (made[at] && made[at] != value)
		at = (at + 1) & (space - 1);
	return at;
}

bool tree_made(const struct tree *tree, const struct tree_node *dir, const char *name)
{
	uint64_t value = hash(tree, dir->id, name, strlen(name)) | 1;

	return tree->made[made_slot(tree->made, tree->made_space, value)] == value;
}

/* Eight bytes for each name, not the name: an image may have ten million. Two of them meet by chance once in 10^5
 * images of that size, and a whiteout would then spare one file too many. */
int tree_made_add(struct tree *tree, const struct tree_node *dir, const char *name)
{
	uint64_t value = hash(tree, dir->id, name, strlen(name)) | 1; /* never 0, the free slot */
	size_t at;

	if (2 * tree->made_count >= tree->made_space) {
		uint64_t *more = calloc(tree->made_space * 2, sizeof(*more));

		if (!more)
			return -ENOMEM;
		for (size_t i = 0; i < tree->made_space; i++) {
			if (tree->made[i])
				more[made_slot(more, tree->made_space * 2, tree->made[i])] = tree->made[i];
		}
		free(tree->made);
		tree->made = more;
		tree->made_space *= 2;
	}
	at = made_slot(tree->made, tree->made_space, value);
	tree->made_count += tree->made[at] ? 0 : 1;
	tree->made[at] = value;
	return 0;
}
