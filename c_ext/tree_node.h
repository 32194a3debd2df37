/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside the directory sink. It remembers the directories that the current layer has passed through, as a tree of
 * nodes by real path, and the names of everything else that the layer made: both end with the layer. */
#ifndef FAIRLEAD_TREE_NODE_H
#define FAIRLEAD_TREE_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "sink.h"
#include "walk.h"

enum tree_node_flags {
	TREE_LISTED = 1 << 0,  /* the layer has an entry for it */
	TREE_IMPLIED = 1 << 1, /* the layer made it, because something lies below it */
	TREE_OPENED = 1 << 2,  /* its mode on disk was widened to let us in */
	TREE_TOUCHED = 1 << 3, /* its content was changed, so its mtime is wrong */
	TREE_CLEAN = 1 << 4,   /* nothing of a lower layer lies below, nor can: whiteouts need not look again */
};

struct tree_node {
	struct tree_node *parent, *child, *next; /* next: the sibling */
	struct tree_node **link;		  /* what points here among the siblings */
	struct tree_node *bucket;		  /* the next one in the same hash bucket */
	uint64_t id;				  /* never used twice */
	int64_t mtime_s;
	uint32_t mtime_ns;
	uint32_t depth;
	uint16_t mode; /* as it is to be in the end */
	uint8_t flags;
	uint8_t size; /* of name */
	char name[];
};

struct tree {
	struct sink sink; /* first: a sink is cast to its tree */
	int rootfd;
	uint32_t depth_limit;

	/* tree_nodes.c */
	struct tree_node *root;
	struct tree_node **buckets;
	size_t bucket_count, node_count;
	uint64_t *made; /* hashes of (directory, name); 0 is a free slot */
	size_t made_space, made_count;
	uint64_t key[2], next_id;

	/* tree_walk.c */
	struct tree_node *near; /* the directory that nearfd (O_PATH) has open */
	int nearfd;
	struct tree_node **chain; /* depth_limit + 1 */
	struct walk walk;

	/* tree.c: the regular file being written */
	int filefd;
	uint64_t written; /* up to where */
	struct {
		uint64_t size;
		int64_t mtime_s;
		uint32_t mtime_ns;
		uint32_t mode;
	} file;
};

/* tree_nodes.c */
int tree_nodes_begin(struct tree *tree, const struct stat *root);
void tree_nodes_end(struct tree *tree);
struct tree_node *tree_node_find(struct tree *tree, struct tree_node *dir, const char *name, size_t size);
int tree_node_add(struct tree *tree, struct tree_node *dir, const char *name, size_t size, struct tree_node **ret_node);
void tree_node_drop(struct tree *tree, struct tree_node *node); /* with all below; the root stays */
struct tree_node *tree_node_first(struct tree_node *top);
struct tree_node *tree_node_after(struct tree_node *top, struct tree_node *node); /* children before parents */
bool tree_made(const struct tree *tree, const struct tree_node *dir, const char *name);
int tree_made_add(struct tree *tree, const struct tree_node *dir, const char *name);

/* tree_walk.c */
int tree_walk(struct tree *tree, const char *path, size_t size, bool create, struct tree_node **ret_dir);
int tree_parent(struct tree *tree, const char *path, bool create, struct tree_node **ret_dir, const char **ret_name);
int tree_near(struct tree *tree, struct tree_node *dir); /* make nearfd that of dir; returns it, or -errno */
int tree_open_node(struct tree *tree, struct tree_node *node, int flags); /* a descriptor of the caller's own */
int tree_enter(struct tree *tree, struct tree_node *dir, const char *name, size_t size, const struct stat *st,
	       struct tree_node **ret_node);
int tree_failed(struct tree *tree, int rc, const char *operation);
void tree_forget_near(struct tree *tree);

/* tree_attrs.c */
int tree_set_mode(int dirfd, const char *name, uint32_t mode);
int tree_set_xattrs(struct tree *tree, int fd, const struct sink_entry *entry);
int tree_clear_xattrs(int fd);
int tree_settle(struct tree *tree);

/* tree_whiteout.c */
int tree_whiteout(struct sink *sink, const char *path);
int tree_opaque(struct sink *sink, const char *path);
int tree_drop(struct sink *sink, const char *path);
int tree_clear_name(struct tree *tree, struct tree_node *dir, const char *name);

#endif
