/* SPDX-License-Identifier: Apache-2.0
 *
 * The container's root file system: lower layers, a stage to keep what is ours, an overlay or the bare layer.
 *
 * A lower layer is a directory (an absolute path), or "mount:N": number N of the detached mounts that came with the
 * launch block, each an EROFS image that the broker mounted (spank_shim/broker.c). */
#ifndef FAIRLEAD_ROOT_H
#define FAIRLEAD_ROOT_H

#include "block.h"
#include "mountpoint.h"
#include "report.h"

#define ROOT_MAX_LAYERS 500 /* overlayfs: OVL_MAX_STACK */

/* Detached mounts, by number; they stay the caller's, who closes them. */
struct root_mounts {
	const int *fds;
	unsigned int count;
};

/* What may be written: in memory, on a mount that came, or in a directory that keeps it for the next container. */
struct root_upper {
	const char *size;  /* of the memory, as tmpfs's option wants it; NULL: tmpfs's own default, half of it */
	const char *mount; /* "mount:N", an empty file system that belongs to the user; NULL: memory */
	const char *place; /* a directory of the user's, or NULL */
	const char *name;  /* of the container that it belongs to: stands in the root's mount source, after a '#' */
};

/* Mount stage and root for an OP_ROOT record and open both in ret. bare: the one lower layer is the root itself,
 * read-only; the caller knows that nothing has to be made in it. */
int root_mount(const struct block_record *record, const struct root_mounts *mounts, const struct root_upper *upper,
	       int bare, struct container *ret, struct report *report);

/* An O_PATH descriptor of the one lower layer of a record that has no other, or -1. */
int root_only_layer(const struct block_record *record, const struct root_mounts *mounts);

/* Show an image without a container: a tmpfs over the directory place, which belongs to the caller, and in it "view",
 * the layers merged and read-only; mounts are in the image's order, lowest first. For reading only: the caller stays
 * where it is. */
int root_view(const char *place, const struct root_mounts *mounts, struct report *report);

#endif
