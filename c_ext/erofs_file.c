/* SPDX-License-Identifier: Apache-2.0
 *
 * Content on its way into the image: each file from a block of its own. A last block that is not much more than half
 * full is taken back, and kept until it can stand behind its inode. */
#include "erofs_image.h"

#include <errno.h>
#include <string.h>

int erofs_link_target(struct erofs_image *image, struct erofs_inode *inode, const char *target)
{
	int rc = 0;

	inode->size = strlen(target);
	if (inode->size >= PATH_MAX) /* no kernel would follow it */
		return -ENAMETOOLONG;
	inode->mode = 0777;
	inode->tail = erofs_body(image, target, inode->size + 1, &rc);
	if (!inode->tail)
		return rc;
	if (sizeof(struct erofs_disk_inode) + inode->size <= EROFS_BLOCK) {
		inode->tail_size = (uint32_t)inode->size;
		return 0;
	}
	inode->block = (uint32_t)(erofs_output_at(&image->out) / EROFS_BLOCK);
	rc = erofs_output_write(&image->out, target, inode->size);
	return rc ? rc : erofs_output_align(&image->out);
}

int erofs_file_begin(struct erofs_image *image, struct erofs_inode *inode, uint64_t size)
{
	uint64_t start = erofs_output_at(&image->out);

	inode->size = size;
	inode->block = (uint32_t)(start / EROFS_BLOCK);
	return (start + size) / EROFS_BLOCK >= UINT32_MAX ? -EFBIG : 0;
}

int erofs_file_end(struct erofs_image *image, struct erofs_inode *inode)
{
	size_t tail = inode->size % EROFS_BLOCK;
	int rc;

	rc = erofs_output_skip(&image->out, (uint64_t)inode->block * EROFS_BLOCK + inode->size);
	if (!rc && erofs_fits_inline(inode, tail)) {
		inode->tail = erofs_body(image, erofs_output_take_back(&image->out, tail), tail, &rc);
		inode->tail_size = (uint32_t)tail;
	}
	return rc ? rc : erofs_output_align(&image->out);
}
