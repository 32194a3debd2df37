/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside the image sink: the picture of the merged tree, as far as this layer has touched it.
 *
 * A name is looked up among the nodes, then, unless its directory is bare, in the lower images. A node, once made,
 * stays; what it stands for changes. A directory that is replaced takes its content along: names belong to the inode of
 * their directory, and what hangs on an inode that no name leads to any more is never reached again. */
#ifndef FAIRLEAD_EROFS_IMAGE_H
#define FAIRLEAD_EROFS_IMAGE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "erofs.h"
#include "erofs_arena.h"
#include "erofs_format.h"
#include "erofs_output.h"
#include "sink.h"
#include "walk.h"

/* What a step returns that needs to look below while nothing is given to look at. No system call here says EAGAIN. */
#define EROFS_ASK (-EAGAIN)

enum erofs_inode_flags {
	EROFS_LISTED = 1 << 0,	/* directory: the layer has an entry for it */
	EROFS_IMPLIED = 1 << 1, /* directory: the layer made it, because something lies below it */
	EROFS_BARE = 1 << 2,	/* directory: nothing of a lower layer shows in it */
	EROFS_OPAQUE = 1 << 3,	/* directory: and overlayfs has to be told so */
	EROFS_ORIGIN = 1 << 4,	/* directory: holds whiteouts; see erofs_layout.c */
	EROFS_BELOW = 1 << 5,	/* lower: its content is still in the lower image; in an index it stays there */
};

/* How the layer came to know a name. Directories below which it works are KNOWN or MADE, and always written. */
enum erofs_node_state {
	EROFS_KNOWN, /* of a lower layer; a file is not written */
	EROFS_TAKEN, /* of a lower layer, and written: it shares an inode with a name of this layer */
	EROFS_MADE,  /* by this layer */
	EROFS_DOTS,  /* "." and ".." */
};

struct erofs_index; /* erofs_index.h */
struct erofs_stack; /* erofs_lower.h: a directory in the lower images */
struct erofs_lie;   /* erofs_index.c: the same, as it is found */

struct erofs_inode {
	struct erofs_inode *next; /* made after it */
	uint64_t size;
	int64_t mtime_s;
	uint32_t mtime_ns;
	uint16_t mode;
	uint8_t type; /* enum sink_type; SINK_CHAR is a whiteout */
	uint8_t flags;
	uint32_t block;	     /* of the data that is not inline */
	uint32_t nid, nlink; /* when the layer has ended; nlink 0: no name led to it */
	uint32_t xattr_size; /* of the whole area, header included; 0 without any */
	uint32_t tail_size;  /* bytes of data that stand inline */
	void *xattrs;
	void *tail; /* those bytes; a link's target, inline or not; in a directory: the node with which they begin */
	union {
		struct {
			struct erofs_node *node;  /* its name; NULL for the root */
			struct erofs_node *child; /* sorted when the layer has ended */
			struct erofs_inode *after; /* then: the next directory, parents before children */
			const struct erofs_stack *stack;
			struct erofs_lie *lies; /* of an index */
			uint32_t depth;
			bool stack_known;
		} dir;
		struct {
			uint64_t nid;
			uint32_t image;
		} below; /* EROFS_BELOW */
	};
};

struct erofs_node {
	struct erofs_inode *dir;   /* where it stands */
	struct erofs_inode *inode; /* NULL: nothing has this name, whatever the lower layers hold */
	struct erofs_node *next;   /* in the same directory */
	uint8_t state;
	uint8_t size; /* of name */
	char name[];
};

struct erofs_slot {
	uint32_t hash;
	uint32_t node; /* see erofs_nodes.c; 0 is a free slot */
};

enum erofs_step_kind { EROFS_STEP_ENTRY, EROFS_STEP_LINK, EROFS_STEP_WHITEOUT, EROFS_STEP_OPAQUE, EROFS_STEP_DROP };

/* One entry of the archive, as far as names are concerned. */
struct erofs_step {
	enum erofs_step_kind kind;
	const char *path;
	const char *link;
	struct erofs_inode *inode;
	struct erofs_step *next; /* waiting */
};

struct erofs_image {
	struct sink sink; /* first: a sink is cast to its image */
	uint32_t depth_limit;
	bool begun;
	struct erofs_facts facts;
	struct erofs_arena arena;
	struct erofs_stream names, bodies, gathered;
	struct erofs_output out;

	/* erofs_nodes.c */
	struct erofs_slot *slots;
	size_t slot_count, node_count;
	char **chunks; /* of names */
	size_t chunk_count, chunk_space;
	uint64_t key[2];
	struct erofs_inode *root; /* the first of all inodes */
	struct erofs_inode **inodes_end;

	/* erofs_walk.c */
	struct walk walk;

	/* erofs.c: the file that data belongs to, and the steps that wait for the lower images */
	struct erofs_inode *file;
	struct erofs_step *waiting, **waiting_end;

	struct erofs_lower *lower; /* NULL: not given */

	struct erofs_index *index; /* NULL: this is a layer */

	/* erofs_layout.c */
	struct erofs_inode *whiteout; /* one for all */
	uint64_t meta_start, end;     /* of the metadata area, in bytes of the file */
};

/* erofs_nodes.c */
int erofs_nodes_begin(struct erofs_image *image);
struct erofs_node *erofs_node_find(const struct erofs_image *image, const struct erofs_inode *dir, const char *name,
				   size_t size);
int erofs_node_have(struct erofs_image *image, struct erofs_inode *dir, const char *name, size_t size,
		    struct erofs_node **ret_node); /* found, or added with nothing to stand for */
int erofs_node_dots(struct erofs_image *image, struct erofs_inode *dir);
int erofs_node_adopt(struct erofs_image *image, struct erofs_node *node, struct erofs_inode *inode);
struct erofs_inode *erofs_inode_new(struct erofs_image *image, enum sink_type type, int *ret_rc);
void *erofs_body(struct erofs_image *image, const void *data, size_t size, int *ret_rc);

static inline bool erofs_is_dir(const struct erofs_node *node)
{
	return node->inode && node->inode->type == SINK_DIR && node->state != EROFS_DOTS;
}

/* erofs_walk.c */
int erofs_look(struct erofs_image *image, struct erofs_inode *dir, const char *name, size_t size,
	       struct erofs_node **ret_node);
int erofs_walk(struct erofs_image *image, const char *path, size_t size, bool create, struct erofs_inode **ret_dir);
int erofs_parent(struct erofs_image *image, const char *path, bool create, struct erofs_inode **ret_dir,
		 const char **ret_name);

/* erofs_apply.c, erofs_hide.c: 0, EROFS_ASK, or -errno with the report filled */
int erofs_apply_entry(struct erofs_image *image, const struct erofs_step *step);
int erofs_apply_link(struct erofs_image *image, const struct erofs_step *step);
int erofs_apply_whiteout(struct erofs_image *image, const struct erofs_step *step);
int erofs_apply_opaque(struct erofs_image *image, const struct erofs_step *step);
int erofs_apply_drop(struct erofs_image *image, const struct erofs_step *step);
int erofs_failed(struct erofs_image *image, int rc, const char *operation);

/* erofs_file.c: content as it is on its way into the image */
int erofs_link_target(struct erofs_image *image, struct erofs_inode *inode, const char *target);
int erofs_file_begin(struct erofs_image *image, struct erofs_inode *inode, uint64_t size);
int erofs_file_end(struct erofs_image *image, struct erofs_inode *inode);

/* erofs_xattr.c */
int erofs_xattrs_pack(struct erofs_image *image, struct erofs_inode *inode, const struct sink_entry *entry);
size_t erofs_xattrs_size(const struct erofs_inode *inode); /* with those of overlayfs */
int erofs_xattrs_write(struct erofs_image *image, const struct erofs_inode *inode);

/* erofs_layout.c, erofs_emit.c */
bool erofs_fits_inline(const struct erofs_inode *inode, size_t tail_size);
int erofs_layout(struct erofs_image *image);
const struct erofs_node *erofs_dir_block(struct erofs_image *image, const struct erofs_node *node, size_t *ret_count,
					 size_t *ret_size);
int erofs_emit(struct erofs_image *image);

#endif
