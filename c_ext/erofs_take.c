/* SPDX-License-Identifier: Apache-2.0 */
#include "erofs_take.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PIECE = 1 << 18 };

static int take_xattrs(struct erofs_image *image, const struct erofs_reader *reader, const struct erofs_found *found,
		       struct erofs_inode *inode)
{
	unsigned char *area;
	size_t size;
	int rc;

	if (!found->xattr_size)
		return 0;
	rc = erofs_reader_xattrs(reader, found, &area);
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

int erofs_take_inode(struct erofs_image *image, const struct erofs_reader *reader, const struct erofs_found *found,
		     uint32_t where, struct erofs_inode **ret_inode)
{
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

int erofs_take_place(struct erofs_image *image, const struct erofs_reader *reader, const struct erofs_found *found,
		     struct erofs_inode *inode)
{
	uint64_t plain = found->size - found->tail_size;
	int rc = take_xattrs(image, reader, found, inode);

	if (rc)
		return rc;
	if (plain && (found->block << EROFS_BLOCK_BITS > reader->size ||
		      plain > reader->size - (found->block << EROFS_BLOCK_BITS)))
		return -EBADMSG;
	inode->size = found->size;
	inode->block = (uint32_t)found->block;
	inode->tail_size = (uint32_t)found->tail_size;
	if (inode->tail_size)
		inode->tail = erofs_body(image, NULL, inode->tail_size, &rc);
	return inode->tail ? erofs_reader_data(reader, found, plain, inode->tail, inode->tail_size) : rc;
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

int erofs_take_content(struct erofs_image *image, const struct erofs_reader *reader, struct erofs_inode *inode)
{
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
