/* SPDX-License-Identifier: Apache-2.0
 *
 * The image sink: writes one layer as one EROFS image, in one pass, for use as a lower layer of an overlay that is
 * mounted with userxattr in the user's namespace.
 *
 * The data of files is written as it comes. Names are applied, in the order of the archive, to a picture of the merged
 * tree of which only the parts are known that the layer has touched (erofs_image.h). A layer whose meaning depends on
 * what lies below it (a parent directory that it does not list, a hard link to a lower file) has a question: from the
 * first one on, its entries wait until the lower images are given, and it is then valid above those only.
 *
 * The overlay of a stack of such images shows what the directory sink makes of the same layers, but for this:
 * - Names of one inode that lie in different layers are different files, as ever with overlayfs.
 * - A layer that does not list the root leaves it as 0755, 1970: the caller knows which layer listed it last.
 * - An xattr of 64 KiB less one byte is the largest, and 256 KiB are the most for one file. */
#ifndef FAIRLEAD_EROFS_H
#define FAIRLEAD_EROFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sink.h"

/* What the caller needs to know of an image. Complete after end_layer; asked is final before. */
struct erofs_facts {
	uint64_t size;	     /* bytes of the file, holes included */
	uint64_t inodes;
	uint64_t markers;    /* whiteouts and opaque directories: without any, the image may be mounted alone */
	uint8_t asked;	     /* it had to look below, or has to yet: valid only above these lower layers */
	uint8_t root_listed; /* mode, time and xattrs of the root are the layer's own */
};

/* fd: an empty regular file, opened to read and write. scratchfd: another one, on the same file system best, which may
 * have no name; it holds what memory should not. Both stay the caller's, and must outlive the sink. depth bounds the
 * directories above an entry. */
int erofs_open(int fd, int scratchfd, uint32_t depth, struct sink **ret_sink);

/* Give the images of the lower layers, the topmost last; none for the lowest layer. At any time before the layer's
 * end, once. The descriptors stay the caller's until the layer has ended. 0, or -errno with the report filled. */
int erofs_set_lower(struct sink *sink, const int *fds, size_t count);

const struct erofs_facts *erofs_facts(const struct sink *sink);

#endif
