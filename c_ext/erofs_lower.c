/* SPDX-License-Identifier: Apache-2.0 */
#include "erofs_lower.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "erofs_image.h"
#include "erofs_reader.h"

enum { IMAGES_MAX = 4096, PIECE = 1 << 18 };

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

static struct erofs_stack *new_stack(struct erofs_image *image, size_t count, int *ret_rc)
{
	return erofs_body(image, NULL, sizeof(struct erofs_stack) + count * sizeof(struct erofs_place), ret_rc);
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

static int read_xattrs(const struct erofs_reader *reader, const struct erofs_found *found, unsigned char **ret_area)
{
	int rc;

	*ret_area = malloc(found->xattr_size + 1);
	if (!*ret_area)
		return -ENOMEM;
	rc = erofs_reader_xattrs(reader, found, *ret_area);
	if (rc)
		free(*ret_area);
	return rc;
}

static int is_opaque(const struct erofs_reader *reader, const struct erofs_found *found)
{
	unsigned char *area;
	int rc;

	if (!found->xattr_size)
		return 0;
	rc = read_xattrs(reader, found, &area);
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
			size_t room = sizeof(*stack) + node->dir->dir.stack->count * sizeof(struct erofs_place);

			stack = erofs_body(image, NULL, room, &rc);
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

static int take_xattrs(struct erofs_image *image, const struct erofs_reader *reader, const struct erofs_found *found,
		       struct erofs_inode *inode)
{
	unsigned char *area;
	size_t size;
	int rc;

	if (!found->xattr_size)
		return 0;
	rc = read_xattrs(reader, found, &area);
	if (rc)
		return rc;
	size = erofs_xattrs_strip(area, found->xattr_size);
	if (size)
		inode->xattrs = erofs_body(image, area, size, &rc);
	if (inode->xattrs)
		inode->xattr_size = (uint32_t)size;
	free(area);
	return rc;
}

static int take_link(struct erofs_image *image, const struct erofs_reader *reader, const struct erofs_found *found,
		     struct erofs_inode *inode)
{
	char target[PATH_MAX] = "";
	int rc;

	if (!found->size || found->size >= sizeof(target))
		return -EBADMSG;
	rc = erofs_reader_data(reader, found, 0, target, found->size);
	if (!rc && strlen(target) != found->size)
		rc = -EBADMSG;
	return rc ? rc : erofs_link_target(image, inode, target);
}

static int type_of(const struct erofs_found *found, enum sink_type *ret_type)
{
	switch (found->mode & S_IFMT) {
	case S_IFREG:
		*ret_type = SINK_FILE;
		return 0;
	case S_IFDIR:
		*ret_type = SINK_DIR;
		return 0;
	case S_IFLNK:
		*ret_type = SINK_SYMLINK;
		return 0;
	case S_IFIFO:
		*ret_type = SINK_FIFO;
		return 0;
	default:
		return -EBADMSG;
	}
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

static int make_inode(struct erofs_image *image, const struct erofs_found *found, uint32_t where,
		      struct erofs_inode **ret_inode)
{
	const struct erofs_reader *reader = &image->lower->images[where];
	struct erofs_inode *inode;
	enum sink_type type;
	int rc;

	rc = type_of(found, &type);
	if (rc)
		return rc;
	inode = erofs_inode_new(image, type, &rc);
	if (!inode)
		return rc;
	inode->mode = found->mode & 07777;
	inode->mtime_s = found->mtime_s;
	inode->mtime_ns = found->mtime_ns;
	if (type == SINK_FILE) {
		inode->flags = EROFS_BELOW;
		inode->below.image = where;
		inode->below.nid = found->nid;
	} else if (type == SINK_SYMLINK) {
		rc = take_link(image, reader, found, inode);
	} else if (type == SINK_DIR) {
		rc = take_xattrs(image, reader, found, inode);
	}
	*ret_inode = inode;
	return rc;
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
	if (rc)
		return rc == -ENOENT ? 0 : rc;
	if (!S_ISDIR(found.mode) && found.nlink > 1) {
		rc = known_inode(image, &found, where, &known);
		*ret_inode = known ? known->inode : NULL;
	}
	if (!rc && !*ret_inode)
		rc = make_inode(image, &found, where, ret_inode);
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

static int each_name(struct erofs_image *image, const struct erofs_reader *reader, const struct erofs_found *dir,
		     int (*found)(struct erofs_image *image, const char *name, size_t size))
{
	unsigned char block[EROFS_BLOCK];

	for (uint64_t at = 0; at < dir->size; at += EROFS_BLOCK) {
		size_t size = dir->size - at < EROFS_BLOCK ? (size_t)(dir->size - at) : EROFS_BLOCK, place = 0;
		struct erofs_name name;
		int rc = erofs_reader_data(reader, dir, at, block, size);

		if (rc)
			return rc;
		while ((rc = erofs_block_next(block, size, &place, &name)) > 0) {
			if (name.text[0] == '.' && (name.size == 1 || (name.size == 2 && name.text[1] == '.')))
				continue;
			rc = found(image, name.text, name.size);
			if (rc)
				return rc;
		}
		if (rc)
			return rc;
	}
	return 0;
}

int erofs_lower_roots(struct erofs_image *image, int (*found)(struct erofs_image *image, const char *name, size_t size))
{
	int rc = 0;

	for (size_t i = 0; i < image->lower->count && !rc; i++) {
		const struct erofs_reader *reader = &image->lower->images[i];
		struct erofs_found root;

		rc = erofs_reader_inode(reader, reader->root_nid, &root);
		if (!rc && !S_ISDIR(root.mode))
			rc = -EBADMSG;
		if (!rc)
			rc = each_name(image, reader, &root, found);
	}
	return rc;
}

/* Where the next data lies in a sparse file below; a hint only. */
static uint64_t next_data(const struct erofs_reader *reader, const struct erofs_found *found, uint64_t offset)
{
	uint64_t start = found->block << EROFS_BLOCK_BITS, plain = found->size - found->tail_size;
	off_t data;

	if (offset >= plain)
		return offset;
	data = lseek(reader->fd, (off_t)(start + offset), SEEK_DATA);
	if (data < 0 || (uint64_t)data <= start + offset)
		return offset;
	return (uint64_t)data - start < plain ? (uint64_t)data - start : plain;
}

static int copy(struct erofs_image *image, const struct erofs_reader *reader, const struct erofs_found *found,
		unsigned char *piece)
{
	uint64_t start = erofs_output_at(&image->out), offset = 0;
	int rc = 0;

	while (!rc && (offset = next_data(reader, found, offset)) < found->size) {
		size_t some = found->size - offset < PIECE ? (size_t)(found->size - offset) : PIECE;

		rc = erofs_output_skip(&image->out, start + offset);
		if (!rc)
			rc = erofs_reader_data(reader, found, offset, piece, some);
		if (!rc)
			rc = erofs_output_write(&image->out, piece, some);
		offset += some;
	}
	return rc;
}

int erofs_lower_take(struct erofs_image *image, struct erofs_inode *inode)
{
	const struct erofs_reader *reader = &image->lower->images[inode->below.image];
	struct erofs_found found;
	unsigned char *piece;
	int rc;

	piece = malloc(PIECE);
	if (!piece)
		return -ENOMEM;
	rc = erofs_reader_inode(reader, inode->below.nid, &found);
	if (!rc)
		rc = take_xattrs(image, reader, &found, inode);
	if (!rc)
		rc = erofs_file_begin(image, inode, found.size);
	if (!rc)
		rc = copy(image, reader, &found, piece);
	if (!rc)
		rc = erofs_file_end(image, inode);
	inode->flags &= (uint8_t)~EROFS_BELOW;
	free(piece);
	return rc;
}
