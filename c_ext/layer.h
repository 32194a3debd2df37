/* SPDX-License-Identifier: Apache-2.0
 *
 * Applies OCI layers, in order, to a sink: the rules of the image specification that hold whatever the sink is.
 *
 * - Names are made relative to the root: a leading slash and ".." are clamped, with a warning; a NUL, an empty name, a
 *   component over 255 bytes, and ".wh." as a directory's name are refused.
 * - ".wh.NAME" hides NAME of the lower layers, ".wh..wh..opq" everything in its directory; a character device 0:0 is
 *   the same as a whiteout (overlayfs's own form). aufs's ".wh..wh.plnk" holds the inodes of hard links: kept while
 *   its layer is read, then dropped. aufs's other ".wh..wh.*" are skipped.
 * - Set-id bits are stripped. Of the xattrs, user.* pass, but not user.overlay.*: overlayfs would obey it.
 * - Devices are skipped and counted. Times are clamped to +-2^34 s. Owners are validated, and up to the sink.
 *
 * Source: OCI image-spec 1.1, layer.md. */
#ifndef FAIRLEAD_LAYER_H
#define FAIRLEAD_LAYER_H

#include <stddef.h>
#include <stdint.h>

#include "erofs.h"
#include "sink.h"

/* Bounds on what an image may cost; entries and bytes count over all layers of one image. */
struct layer_limits {
	uint64_t entries;
	uint64_t bytes;		/* logical sizes, holes included */
	uint32_t depth;		/* directories above an entry, and of the tree */
	uint32_t extended_bytes; /* one extended header (PAX, GNU long name) */
	uint32_t sparse_regions; /* of one file */
};

struct layer;

/* Start an image in the directory rootfd, which stays the caller's and must outlive the layer. */
int layer_open_tree(int rootfd, const struct layer_limits *limits, struct layer **ret_layer);

/* Start an image of one layer in the file fd, with scratchfd to lean on; see erofs.h. The bounds hold for this layer. */
int layer_open_image(int fd, int scratchfd, const struct layer_limits *limits, struct layer **ret_layer);

/* Of an image only (-EINVAL, NULL): the lower images, the topmost last, at any time before the end; what is known. */
int layer_set_lower(struct layer *layer, const int *fds, size_t count);
const struct erofs_facts *layer_image_facts(const struct layer *layer);

/* One layer: begin, feed*, end. All return 0 or -errno, and have filled the report when they do. After a failure the
 * tree is garbage, and every further call fails with the same report. */
int layer_begin(struct layer *layer);
int layer_feed(struct layer *layer, const void *data, size_t size);
int layer_end(struct layer *layer);

void layer_close(struct layer *layer);

const struct sink_report *layer_report(const struct layer *layer);
const struct sink_stats *layer_stats(const struct layer *layer); /* of the layer begun last */

#endif
