/* SPDX-License-Identifier: Apache-2.0
 *
 * Directories are merged one after the other, in the order in which they are found: the names of the topmost image
 * first. The first image that has a name decides what it is; a directory collects where else it lies, down to the first
 * image where it is opaque or something else. So each entry of each layer is read once. */
#include "erofs_index.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "erofs_image.h"
#include "erofs_reader.h"
#include "erofs_take.h"

/* One of the places where a directory lies, the topmost first. In a ring: the directory knows the last one. */
struct erofs_lie {
	struct erofs_lie *next;
	uint64_t nid;
	uint32_t device;
};

struct erofs_index {
	struct erofs_cache cache;
	struct erofs_inode known; /* no directory: a place for what is to be met once, by device and nid */
	size_t count;
	struct erofs_origin {
		struct erofs_reader reader;
		uint32_t first; /* address of its block 0 */
	} devices[];
};

/* What a name that is found means for the directory that is being merged. */
struct merging {
	struct erofs_image *image;
	struct erofs_inode *dir;
	uint32_t device;
};

static const struct erofs_reader *reader_of(const struct erofs_image *image, uint32_t device)
{
	return &image->index->devices[device].reader;
}

static int know(struct erofs_image *image, uint64_t nid, uint32_t device, struct erofs_node **ret_node)
{
	char key[sizeof(nid) + sizeof(device)];

	memcpy(key, &nid, sizeof(nid));
	memcpy(key + sizeof(nid), &device, sizeof(device));
	return erofs_node_have(image, &image->index->known, key, sizeof(key), ret_node);
}

/* Note that a directory lies here, too; below an opaque one nothing counts any more. */
static int add_lie(struct erofs_image *image, struct erofs_inode *dir, const struct erofs_found *found, uint32_t device)
{
	struct erofs_lie *last = dir->dir.lies, *lie;
	struct erofs_node *known;
	unsigned char *area;
	int rc;

	rc = know(image, found->nid, device, &known);
	if (rc)
		return rc;
	if (known->state == EROFS_MADE)
		return -EBADMSG; /* a damaged image: a directory has one name, and none that leads back to it */
	known->state = EROFS_MADE;
	lie = erofs_body(image, NULL, sizeof(*lie), &rc);
	if (!lie)
		return rc;
	*lie = (struct erofs_lie){ last ? last->next : lie, found->nid, device };
	if (last)
		last->next = lie;
	dir->dir.lies = lie;
	if (!found->xattr_size)
		return 0;
	rc = erofs_reader_xattrs(reader_of(image, device), found, &area);
	if (rc)
		return rc;
	if (erofs_xattrs_opaque(area, found->xattr_size))
		dir->flags |= EROFS_BARE;
	free(area);
	return 0;
}

/* A file, a link, a fifo: names of one inode in one image are one inode here. */
static int take_file(struct merging *merging, const struct erofs_found *found, struct erofs_inode **ret_inode)
{
	struct erofs_image *image = merging->image;
	struct erofs_node *known = NULL;
	int rc = 0;

	if (found->nlink > 1)
		rc = know(image, found->nid, merging->device, &known);
	if (rc)
		return rc;
	if (known && known->inode) {
		*ret_inode = known->inode;
		return 0;
	}
	rc = erofs_take_inode(image, reader_of(image, merging->device), found, merging->device, ret_inode);
	if (!rc && (*ret_inode)->type == SINK_FILE)
		rc = erofs_take_place(image, reader_of(image, merging->device), found, *ret_inode);
	if (known)
		known->inode = *ret_inode;
	return rc;
}

/* The first image that has the name. */
static int take_first(struct merging *merging, const struct erofs_found *found, struct erofs_node *node)
{
	struct erofs_inode *inode;
	int rc;

	node->state = EROFS_MADE;
	if (S_ISCHR(found->mode))
		return 0; /* a whiteout: nothing stands here */
	if (!S_ISDIR(found->mode)) {
		rc = take_file(merging, found, &inode);
	} else {
		rc = erofs_take_inode(merging->image, reader_of(merging->image, merging->device), found,
				      merging->device, &inode);
		if (!rc)
			rc = add_lie(merging->image, inode, found, merging->device);
	}
	return rc ? rc : erofs_node_adopt(merging->image, node, inode);
}

static int merge_name(void *context, const struct erofs_name *name)
{
	struct merging *merging = context;
	struct erofs_found found;
	struct erofs_node *node;
	int rc;

	erofs_arena_breathe(&merging->image->arena);
	rc = erofs_node_have(merging->image, merging->dir, name->text, name->size, &node);
	if (rc)
		return rc;
	if (node->state == EROFS_MADE && (!erofs_is_dir(node) || node->inode->flags & EROFS_BARE))
		return 0; /* hidden from above */
	rc = erofs_reader_inode(reader_of(merging->image, merging->device), name->nid, &found);
	if (rc)
		return rc;
	if (node->state != EROFS_MADE)
		return take_first(merging, &found, node);
	if (S_ISDIR(found.mode))
		return add_lie(merging->image, node->inode, &found, merging->device);
	node->inode->flags |= EROFS_BARE;
	return 0;
}

static int merge_dir(struct erofs_image *image, struct erofs_inode *dir)
{
	const struct erofs_lie *last = dir->dir.lies, *lie = last;
	int rc = 0;

	while (lie && !rc) {
		struct merging merging = { image, dir, lie->next->device };
		struct erofs_found found;

		lie = lie->next;
		rc = erofs_reader_inode(reader_of(image, lie->device), lie->nid, &found);
		if (!rc && !S_ISDIR(found.mode))
			rc = -EBADMSG;
		if (!rc)
			rc = erofs_reader_each(reader_of(image, lie->device), &found, merge_name, &merging);
		if (lie == last)
			break;
	}
	return rc;
}

/* The root of a layer that does not list it looks like this; the topmost one that lists it describes it. */
static bool is_listed(const struct erofs_inode *root)
{
	return root->mode != 0755 || root->mtime_s || root->mtime_ns || root->xattr_size;
}

static int begin_root(struct erofs_image *image)
{
	struct erofs_index *index = image->index;
	int rc = 0;

	for (size_t i = index->count; i-- > 0 && !rc;) {
		const struct erofs_reader *reader = reader_of(image, (uint32_t)i);
		struct erofs_inode *root = NULL;
		struct erofs_found found;

		rc = erofs_reader_inode(reader, reader->root_nid, &found);
		if (!rc && !S_ISDIR(found.mode))
			rc = -EBADMSG;
		if (!rc)
			rc = add_lie(image, image->root, &found, (uint32_t)i);
		if (!rc && !is_listed(image->root))
			rc = erofs_take_inode(image, reader, &found, (uint32_t)i, &root);
		if (rc || !root)
			continue;
		image->root->mode = root->mode;
		image->root->mtime_s = root->mtime_s;
		image->root->mtime_ns = root->mtime_ns;
		image->root->xattrs = root->xattrs;
		image->root->xattr_size = root->xattr_size;
	}
	return rc;
}

static int merge_all(struct erofs_image *image)
{
	int rc;

	rc = erofs_nodes_begin(image);
	if (!rc) /* the superblock's block and the table come last */
		rc = erofs_output_skip(&image->out, EROFS_BLOCK + image->index->count * sizeof(struct erofs_device));
	if (!rc)
		rc = erofs_output_align(&image->out);
	if (!rc)
		rc = begin_root(image);
	for (struct erofs_inode *inode = image->root; inode && !rc; inode = inode->next) {
		erofs_arena_breathe(&image->arena);
		if (inode->type == SINK_DIR)
			rc = merge_dir(image, inode);
	}
	if (!rc)
		rc = erofs_layout(image);
	return rc ? rc : erofs_emit(image);
}

int erofs_index_place(struct erofs_image *image)
{
	uint64_t at = image->end / EROFS_BLOCK;

	for (size_t i = 0; i < image->index->count; i++) {
		image->index->devices[i].first = (uint32_t)at;
		at += image->index->devices[i].reader.size / EROFS_BLOCK;
		if (at > UINT32_MAX)
			return -EFBIG;
	}
	return 0;
}

uint32_t erofs_index_first(const struct erofs_image *image, uint32_t device)
{
	return image->index->devices[device].first;
}

void erofs_index_super(const struct erofs_image *image, struct erofs_super *super)
{
	memcpy(super->volume, "fairlead index", sizeof("fairlead index"));
	super->incompat = htole32(EROFS_INCOMPAT_DEVICES);
	super->devices = htole16((uint16_t)image->index->count);
	super->device_slot = htole16(EROFS_BLOCK / sizeof(struct erofs_device));
}

int erofs_index_devices(struct erofs_image *image)
{
	int rc = 0;

	for (size_t i = 0; i < image->index->count && !rc; i++) {
		struct erofs_device device = {
			.blocks = htole32((uint32_t)(image->index->devices[i].reader.size / EROFS_BLOCK)),
			.first = htole32(image->index->devices[i].first),
		};

		rc = erofs_output_at_offset(&image->out, EROFS_BLOCK + i * sizeof(device), &device, sizeof(device));
	}
	return rc;
}

int erofs_index_write(int fd, int scratchfd, uint32_t depth, const int *fds, size_t count,
		      struct erofs_facts *ret_facts)
{
	struct erofs_image image = { .arena.fd = scratchfd, .depth_limit = depth };
	struct stat st;
	int rc;

	if (!count || count > EROFS_INDEX_LAYERS_MAX)
		return -E2BIG;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_size)
		return -EINVAL; /* gaps have to read as zeros */
	image.index = calloc(1, sizeof(*image.index) + count * sizeof(image.index->devices[0]));
	if (!image.index)
		return -ENOMEM;
	image.index->count = count;
	rc = erofs_output_open(&image.out, fd);
	for (size_t i = 0; i < count && !rc; i++)
		rc = erofs_reader_open(fds[i], &image.index->cache, &image.index->devices[i].reader);
	if (!rc)
		rc = merge_all(&image);
	*ret_facts = image.facts;
	erofs_output_close(&image.out);
	erofs_arena_free(&image.arena);
	free(image.chunks);
	free(image.index);
	return rc;
}
