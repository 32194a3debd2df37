/* SPDX-License-Identifier: Apache-2.0
 *
 * Things of a lower image become things of this one. */
#ifndef FAIRLEAD_EROFS_TAKE_H
#define FAIRLEAD_EROFS_TAKE_H

#include <stdint.h>

#include "erofs_image.h"
#include "erofs_reader.h"

/* An inode as the layer is to know it: a link's target and a directory's xattrs are read, a file's content is not yet.
 * where is the image's number, for later. */
int erofs_take_inode(struct erofs_image *image, const struct erofs_reader *reader, const struct erofs_found *found,
		     uint32_t where, struct erofs_inode **ret_inode);

/* The xattrs of a file that is EROFS_BELOW, and what of its content stands inline; the rest stays where it is. */
int erofs_take_place(struct erofs_image *image, const struct erofs_reader *reader, const struct erofs_found *found,
		     struct erofs_inode *inode);

/* The content and the xattrs of a file that is EROFS_BELOW. Holes stay holes. */
int erofs_take_content(struct erofs_image *image, const struct erofs_reader *reader, struct erofs_inode *inode);

#endif
