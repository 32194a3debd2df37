/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes what erofs_layout.c has placed, front to back, and the superblock last: a file that was not finished has none,
 * and no kernel mounts it. */
#include "erofs_image.h"

#include <endian.h>
#include <string.h>
#include <sys/stat.h>

#include "erofs_crc.h"
#include "erofs_index.h"

static uint8_t dirent_type(const struct erofs_inode *inode)
{
	static const uint8_t types[] = {
		[SINK_FILE] = EROFS_TYPE_FILE,	     [SINK_DIR] = EROFS_TYPE_DIR,   [SINK_SYMLINK] = EROFS_TYPE_SYMLINK,
		[SINK_FIFO] = EROFS_TYPE_FIFO,	     [SINK_CHAR] = EROFS_TYPE_CHAR,
	};

	return types[inode->type];
}

static uint16_t mode_of(const struct erofs_inode *inode)
{
	static const uint16_t types[] = {
		[SINK_FILE] = S_IFREG, [SINK_DIR] = S_IFDIR,  [SINK_SYMLINK] = S_IFLNK,
		[SINK_FIFO] = S_IFIFO, [SINK_CHAR] = S_IFCHR,
	};

	return (uint16_t)(types[inode->type] | inode->mode);
}

/* One block of a directory from node on; the rest of the block is cleared. */
static const struct erofs_node *fill_block(struct erofs_image *image, const struct erofs_node *node,
					   unsigned char block[EROFS_BLOCK], size_t *ret_size)
{
	const struct erofs_node *next;
	size_t count, name_at;

	next = erofs_dir_block(image, node, &count, ret_size);
	name_at = count * sizeof(struct erofs_dirent);
	for (size_t i = 0; i < count; i++, node = node->next) {
		struct erofs_dirent dirent = {
			.nid = htole64(node->inode->nid),
			.name_offset = htole16((uint16_t)name_at),
			.type = dirent_type(node->inode),
		};

		memcpy(block + i * sizeof(dirent), &dirent, sizeof(dirent));
		memcpy(block + name_at, node->name, node->size);
		name_at += node->size;
	}
	memset(block + name_at, 0, EROFS_BLOCK - name_at);
	return next;
}

static int emit_dir_blocks(struct erofs_image *image, const struct erofs_inode *dir)
{
	const struct erofs_node *node = dir->dir.child;
	unsigned char block[EROFS_BLOCK];
	int rc = 0;

	while (node && node != dir->tail && !rc) {
		size_t size;

		node = fill_block(image, node, block, &size);
		rc = erofs_output_write(&image->out, block, sizeof(block));
	}
	return rc;
}

static int emit_tail(struct erofs_image *image, const struct erofs_inode *inode)
{
	unsigned char block[EROFS_BLOCK];
	size_t size;

	if (inode->type != SINK_DIR)
		return erofs_output_write(&image->out, inode->tail, inode->tail_size);
	fill_block(image, inode->tail, block, &size);
	return erofs_output_write(&image->out, block, size);
}

/* Of a layer all content is its own by now. */
static bool is_elsewhere(const struct erofs_inode *inode)
{
	return inode->flags & EROFS_BELOW && inode->size > inode->tail_size;
}

static int emit_inode(struct erofs_image *image, const struct erofs_inode *inode)
{
	size_t xattrs = erofs_xattrs_size(inode);
	struct erofs_disk_inode disk = {
		.format = htole16(EROFS_EXTENDED | (inode->tail_size ? EROFS_INLINE : EROFS_PLAIN)),
		.xattr_count = htole16((uint16_t)(xattrs ? 1 + (xattrs - sizeof(struct erofs_xattr_header)) / 4 : 0)),
		.mode = htole16(mode_of(inode)),
		.size = htole64(inode->size),
		.block = htole32(inode->block + (is_elsewhere(inode) ? erofs_index_first(image, inode->below.image) : 0)),
		.number = htole32(inode->nid),
		.mtime_s = htole64((uint64_t)inode->mtime_s),
		.mtime_ns = htole32(inode->mtime_ns),
		.nlink = htole32(inode->nlink),
	};
	int rc;

	rc = erofs_output_skip(&image->out, image->meta_start + ((uint64_t)inode->nid << EROFS_NID_BITS));
	if (!rc)
		rc = erofs_output_write(&image->out, &disk, sizeof(disk));
	if (!rc)
		rc = erofs_xattrs_write(image, inode);
	if (!rc && inode->tail_size)
		rc = emit_tail(image, inode);
	return rc;
}

static int emit_super(struct erofs_image *image)
{
	unsigned char block[EROFS_BLOCK] = { 0 };
	struct erofs_super super = {
		.magic = htole32(EROFS_MAGIC),
		.compat = htole32(EROFS_COMPAT_CHECKSUM | EROFS_COMPAT_MTIME),
		.block_bits = EROFS_BLOCK_BITS,
		.root_nid = htole16((uint16_t)image->root->nid),
		.inodes = htole64(image->facts.inodes),
		.blocks = htole32((uint32_t)(image->end / EROFS_BLOCK)),
		.meta_block = htole32((uint32_t)(image->meta_start / EROFS_BLOCK)),
		.volume = "fairlead layer",
	};

	if (image->index)
		erofs_index_super(image, &super);

	memcpy(block + EROFS_SUPER_OFFSET, &super, sizeof(super));
	super.checksum = htole32(erofs_crc32c(block + EROFS_SUPER_OFFSET, EROFS_BLOCK - EROFS_SUPER_OFFSET));
	memcpy(block + EROFS_SUPER_OFFSET, &super, sizeof(super));
	return erofs_output_at_offset(&image->out, 0, block, sizeof(block));
}

int erofs_emit(struct erofs_image *image)
{
	const struct erofs_inode *dir;
	int rc = 0;

	for (dir = image->root; dir && !rc; dir = dir->dir.after)
		rc = emit_dir_blocks(image, dir);
	for (const struct erofs_inode *inode = image->root; inode && !rc; inode = inode->next) {
		erofs_arena_breathe(&image->arena);
		if (inode->nlink)
			rc = emit_inode(image, inode);
	}
	if (!rc)
		rc = erofs_output_align(&image->out);
	if (!rc)
		rc = erofs_output_flush(&image->out);
	if (!rc && image->index)
		rc = erofs_index_devices(image);
	if (!rc)
		rc = emit_super(image);
	image->facts.size = image->end;
	return rc;
}
