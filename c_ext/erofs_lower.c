/* SPDX-License-Identifier: Apache-2.0 */
#include "erofs_lower.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "erofs_image.h"
#include "erofs_reader.h"
#include "erofs_take.h"

enum { IMAGES_MAX = 4096 };

struct erofs_lower {
	size_t count;
	struct erofs_cache cache;
	struct erofs_inode linked; /* no directory: a place for inodes taken from below, by image and nid */
	struct erofs_reader images[]; /* the topmost first */
};

/* One directory as it lies in several images, the topmost first. */
struct erofs_stack {
	uint32_t count;
	struct erofs_place {
		uint32_t image;
		uint64_t nid;
	} at[];
};

int erofs_lower_open(const int *fds, size_t count, struct erofs_lower **ret_lower)
{
	struct erofs_lower *lower;
	int rc = 0;

	if (count > IMAGES_MAX)
		return -E2BIG;
	lower = calloc(1, sizeof(*lower) + count * sizeof(lower->images[0]));
	if (!lower)
		return -ENOMEM;
	lower->count = count;
	for (size_t i = 0; i < count && !rc; i++)
		rc = erofs_reader_open(fds[count - 1 - i], &lower->cache, &lower->images[i]);
	if (rc)
		free(lower);
	else
		*ret_lower = lower;
	return rc;
}

void erofs_lower_close(struct erofs_lower *lower)
{
	free(lower);
}

static size_t stack_size(size_t count)
{
	return sizeof(struct erofs_stack) + count * sizeof(struct erofs_place);
}

static struct erofs_stack *new_stack(struct erofs_image *image, size_t count, int *ret_rc)
{
	return erofs_body(image, NULL, stack_size(count), ret_rc);
}

static int root_stack(struct erofs_image *image, const struct erofs_stack **ret_stack)
{
	const struct erofs_lower *lower = image->lower;
	struct erofs_stack *stack;
	int rc = 0;

	stack = new_stack(image, lower->count, &rc);
	if (!stack)
		return rc;
	stack->count = (uint32_t)lower->count;
	for (uint32_t i = 0; i < stack->count; i++)
		stack->at[i] = (struct erofs_place){ i, lower->images[i].root_nid };
	*ret_stack = stack;
	return 0;
}

static int is_opaque(const struct erofs_reader *reader, const struct erofs_found *found)
{
	unsigned char *area;
	int rc;

	if (!found->xattr_size)
		return 0;
	rc = erofs_reader_xattrs(reader, found, &area);
	if (rc)
		return rc;
	rc = erofs_xattrs_opaque(area, found->xattr_size);
	free(area);
	return rc;
}

static int find_in(const struct erofs_reader *reader, uint64_t dir_nid, const char *name, size_t size,
		   struct erofs_found *ret_found)
{
	struct erofs_found dir;
	uint64_t nid;
	int rc;

	rc = erofs_reader_inode(reader, dir_nid, &dir);
	if (!rc && !S_ISDIR(dir.mode))
		rc = -EBADMSG;
	if (!rc)
		rc = erofs_reader_find(reader, &dir, name, size, &nid);
	return rc ? rc : erofs_reader_inode(reader, nid, ret_found);
}

/* What overlayfs makes of a name in several directories: the topmost one counts, and only directories merge, down to
 * the first opaque one or what is none. *ret_found describes the topmost; stack gets the directories; -ENOENT. */
static int merge(const struct erofs_lower *lower, const struct erofs_stack *parents, const char *name, size_t size,
		 struct erofs_stack *stack, struct erofs_found *ret_found, uint32_t *ret_image)
{
	bool have = false;

	stack->count = 0;
	for (uint32_t i = 0; i < parents->count; i++) {
		const struct erofs_reader *reader = &lower->images[parents->at[i].image];
		struct erofs_found found;
		int rc = find_in(reader, parents->at[i].nid, name, size, &found);

		if (rc == -ENOENT)
			continue;
		if (rc)
			return rc;
		if (!S_ISDIR(found.mode) && (have || S_ISCHR(found.mode)))
			break;
		if (!have) {
			*ret_found = found;
			*ret_image = parents->at[i].image;
			have = true;
		}
		if (!S_ISDIR(found.mode))
			break;
		stack->at[stack->count++] = (struct erofs_place){ parents->at[i].image, found.nid };
		rc = is_opaque(reader, &found);
		if (rc < 0)
			return rc;
		if (rc)
			break;
	}
	return have ? 0 : -ENOENT;
}

/* Where this directory of the merged tree lies below; it may be the layer's own, and have nothing there. */
static int stack_of(struct erofs_image *image, struct erofs_inode *dir)
{
	while (!dir->dir.stack_known) {
		struct erofs_inode *next = dir;
		struct erofs_found found;
		struct erofs_stack *stack;
		uint32_t where;
		int rc = 0;

		while (next->dir.node && !next->dir.node->dir->dir.stack_known)
			next = next->dir.node->dir;
		if (next->dir.node) {
			const struct erofs_node *node = next->dir.node;

			stack = new_stack(image, node->dir->dir.stack->count, &rc);
			if (stack)
				rc = merge(image->lower, node->dir->dir.stack, node->name, node->size, stack, &found,
					   &where);
			if (rc == -ENOENT)
				rc = 0;
			next->dir.stack = stack;
		} else {
			rc = root_stack(image, &next->dir.stack);
		}
		if (rc)
			return rc;
		next->dir.stack_known = true;
	}
	return 0;
}

/* Names below that share an inode share it here, too. */
static int known_inode(struct erofs_image *image, const struct erofs_found *found, uint32_t where,
		       struct erofs_node **ret_node)
{
	char key[sizeof(uint64_t) + sizeof(uint32_t)];

	memcpy(key, &found->nid, sizeof(found->nid));
	memcpy(key + sizeof(found->nid), &where, sizeof(where));
	return erofs_node_have(image, &image->lower->linked, key, sizeof(key), ret_node);
}

int erofs_lower_look(struct erofs_image *image, struct erofs_inode *dir, const char *name, size_t size,
		     struct erofs_inode **ret_inode)
{
	struct erofs_node *known = NULL;
	struct erofs_found found;
	struct erofs_stack *stack;
	uint32_t where = 0;
	int rc;

	*ret_inode = NULL;
	rc = stack_of(image, dir);
	if (rc)
		return rc;
	stack = new_stack(image, dir->dir.stack->count, &rc);
	if (!stack)
		return rc;
	rc = merge(image->lower, dir->dir.stack, name, size, stack, &found, &where);
	/* Most names lie in one image, if any, and most are no directories. */
	erofs_arena_trim(&image->bodies, stack, stack_size(dir->dir.stack->count), stack->count ? stack_size(stack->count) : 0);
	if (rc)
		return rc == -ENOENT ? 0 : rc;
	if (!S_ISDIR(found.mode) && found.nlink > 1) {
		rc = known_inode(image, &found, where, &known);
		*ret_inode = known ? known->inode : NULL;
	}
	if (!rc && !*ret_inode)
		rc = erofs_take_inode(image, &image->lower->images[where], &found, where, ret_inode);
	if (rc)
		return rc;
	if (known)
		known->inode = *ret_inode;
	if (S_ISDIR(found.mode)) {
		(*ret_inode)->dir.stack = stack;
		(*ret_inode)->dir.stack_known = true;
	}
	return 0;
}

struct roots {
	struct erofs_image *image;
	int (*found)(struct erofs_image *image, const char *name, size_t size);
};

static int root_name(void *context, const struct erofs_name *name)
{
	const struct roots *roots = context;

	return roots->found(roots->image, name->text, name->size);
}

int erofs_lower_roots(struct erofs_image *image, int (*found)(struct erofs_image *image, const char *name, size_t size))
{
	struct roots roots = { image, found };
	int rc = 0;

	for (size_t i = 0; i < image->lower->count && !rc; i++) {
		const struct erofs_reader *reader = &image->lower->images[i];
		struct erofs_found root;

		rc = erofs_reader_inode(reader, reader->root_nid, &root);
		if (!rc && !S_ISDIR(root.mode))
			rc = -EBADMSG;
		if (!rc)
			rc = erofs_reader_each(reader, &root, root_name, &roots);
	}
	return rc;
}

int erofs_lower_take(struct erofs_image *image, struct erofs_inode *inode)
{
	return erofs_take_content(image, &image->lower->images[inode->below.image], inode);
}
