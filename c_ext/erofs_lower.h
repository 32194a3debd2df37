/* SPDX-License-Identifier: Apache-2.0
 *
 * The lower layers as one tree: what overlayfs would show of a stack of images that this sink wrote. */
#ifndef FAIRLEAD_EROFS_LOWER_H
#define FAIRLEAD_EROFS_LOWER_H

#include <stddef.h>
#include <stdint.h>

struct erofs_image;
struct erofs_inode;
struct erofs_lower;
struct erofs_node;

/* 0 or -errno; -EBADMSG for what is none of our images. */
int erofs_lower_open(const int *fds, size_t count, struct erofs_lower **ret_lower);
void erofs_lower_close(struct erofs_lower *lower);

/* What the lower layers have at this name of dir, which is not bare: *ret_inode as the layer is to know it, NULL when
 * there is nothing. Attributes of a directory and the target of a link are read; a file's content is not. */
int erofs_lower_look(struct erofs_image *image, struct erofs_inode *dir, const char *name, size_t size,
		     struct erofs_inode **ret_inode);

/* Call back with each name that the lower layers have in the root. */
int erofs_lower_roots(struct erofs_image *image, int (*found)(struct erofs_image *image, const char *name, size_t size));

/* Read the content and the xattrs of a file that is EROFS_BELOW into this image. */
int erofs_lower_take(struct erofs_image *image, struct erofs_inode *inode);

#endif
