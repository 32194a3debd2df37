/* SPDX-License-Identifier: Apache-2.0
 *
 * The index of a stack of layers: an image of its own that holds the merged tree, every inode, directory and xattr, and
 * of the files' content only the tails that stand inline. All other data stay in the layers' images, which are given to
 * mount as the index's devices, the lowest first.
 *
 * It shows what the overlay of the same images shows, its one mount needs no overlay, and a name is looked up once and
 * not once per layer. Names of one inode are one file if they lie in the same layer, as with overlayfs. */
#ifndef FAIRLEAD_EROFS_INDEX_H
#define FAIRLEAD_EROFS_INDEX_H

#include <stddef.h>
#include <stdint.h>

#include "erofs.h"

/* Linux counts devices with 16 bits; overlayfs takes as many layers. */
enum { EROFS_INDEX_LAYERS_MAX = 500 };

/* Write the index of images that this sink wrote, the topmost last. fd and scratchfd as for erofs_open(), depth bounds
 * the directories above a name. All descriptors stay the caller's. 0 or -errno: -EBADMSG for what is none of our
 * images, -EFBIG where the addresses do not suffice. */
int erofs_index_write(int fd, int scratchfd, uint32_t depth, const int *fds, size_t count,
		      struct erofs_facts *ret_facts);

/* What layout and emission ask of an index. */
struct erofs_image;
struct erofs_super;
int erofs_index_place(struct erofs_image *image); /* the end is known: give the devices their addresses */
uint32_t erofs_index_first(const struct erofs_image *image, uint32_t device);
void erofs_index_super(const struct erofs_image *image, struct erofs_super *super);
int erofs_index_devices(struct erofs_image *image);

#endif
