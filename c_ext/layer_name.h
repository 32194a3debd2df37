/* SPDX-License-Identifier: Apache-2.0
 *
 * Names of a layer's entries: what they are below the root, and what they mean. Pure. */
#ifndef FAIRLEAD_LAYER_NAME_H
#define FAIRLEAD_LAYER_NAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LAYER_NAME_MAX = 255 };

#define LAYER_LINK_DIR ".wh..wh.plnk"

enum layer_meaning {
	LAYER_PLAIN,
	LAYER_WHITEOUT, /* path is what is hidden */
	LAYER_OPAQUE,	/* path is the directory whose content is hidden */
	LAYER_AUFS_LINK, /* an inode kept for hard links, below LAYER_LINK_DIR */
	LAYER_AUFS,	/* aufs's bookkeeping: nothing to do */
};

struct layer_name {
	char *path; /* owned, reused from name to name */
	size_t space;
	uint32_t depth; /* components */
	bool clamped;
};

/* Resolve ".", ".." and slashes of text by its letters alone, inside the root. -ENOMEM, or -EBADMSG with *ret_why. */
int layer_name_clean(struct layer_name *name, const char *text, const char **ret_why);

/* Tell what the cleaned name means; cuts path down to what a whiteout or an opaque marker is about. Returns -EBADMSG
 * with *ret_why for a marker that makes no sense. */
int layer_name_classify(struct layer_name *name, enum layer_meaning *ret_meaning, const char **ret_why);

#endif
