/* SPDX-License-Identifier: Apache-2.0
 *
 * What stands between the layer reader (layer.c) and whatever keeps the result: one entry at a time, already decoded
 * and already made harmless by the layer rules, in the order of the archive.
 *
 * A sink may rely on: paths without leading slash, ".", ".." or empty components ("" is the root); no set-id bits in
 * a mode; only xattrs that a user's layer may set; file data in ascending offsets, with gaps where the file is sparse;
 * entry, data*, end_entry for regular files, and entry alone for everything else.
 * A sink must: never leave its root, whatever the paths, links and the lower layers hold; let a whiteout or an opaque
 * marker hide only what lower layers brought. */
#ifndef FAIRLEAD_SINK_H
#define FAIRLEAD_SINK_H

#include <stddef.h>
#include <stdint.h>

enum sink_type { SINK_FILE, SINK_DIR, SINK_SYMLINK, SINK_LINK, SINK_FIFO, SINK_CHAR, SINK_BLOCK };

struct sink_xattr {
	const char *name;
	const void *value;
	size_t size;
};

struct sink_entry {
	enum sink_type type;
	const char *path;
	const char *link; /* SINK_LINK: a path like the above; SINK_SYMLINK: the target, verbatim */
	uint32_t mode;	  /* 07777 at most */
	uint32_t uid, gid;
	uint32_t major, minor;
	uint64_t size; /* logical, holes included; 0 unless SINK_FILE */
	int64_t mtime_s;
	uint32_t mtime_ns;
	const struct sink_xattr *xattrs;
	size_t xattr_count;
};

/* Things that a user may want to know and that stop nothing. The order is known to kernel.py. */
enum sink_warning {
	SINK_WARN_CLAMPED,	     /* a name that was absolute or held ".." */
	SINK_WARN_DUPLICATE,	     /* a path that stands twice in one layer */
	SINK_WARN_WHITEOUT_CONTENT,  /* a whiteout that is not empty */
	SINK_WARN_XATTR_UNSUPPORTED, /* an xattr that this file system cannot hold */
	SINK_WARNINGS
};

enum { SINK_EXAMPLE_BYTES = 256, SINK_ENTRY_BYTES = 1024, SINK_DETAIL_BYTES = 192 };

/* Of resolving one path, the same for every sink. */
enum {
	SINK_LINKS_MAX = 40,   /* as the kernel has it */
	SINK_STEPS_MAX = 8192, /* with its links: forty of them could make it eighty thousand */
};

struct sink_stats {
	uint64_t entries;
	uint64_t bytes;
	uint64_t skipped_devices;
	uint64_t warnings[SINK_WARNINGS];
	char examples[SINK_WARNINGS][SINK_EXAMPLE_BYTES]; /* the first path of each kind */
};

/* The one failure of a layer. refused: the layer's own fault, detail says which; otherwise err is the kernel's word
 * and detail the operation. */
struct sink_report {
	int err;
	int refused;
	char entry[SINK_ENTRY_BYTES]; /* the name as it stands in the archive, cut if very long; may be empty */
	char detail[SINK_DETAIL_BYTES];
};

struct sink;

/* All return 0 or -errno, and have filled the report when they do. */
struct sink_ops {
	int (*begin_layer)(struct sink *sink);
	int (*entry)(struct sink *sink, const struct sink_entry *entry);
	int (*data)(struct sink *sink, uint64_t offset, const void *data, size_t size);
	int (*end_entry)(struct sink *sink);
	int (*whiteout)(struct sink *sink, const char *path); /* hide path of the lower layers */
	int (*opaque)(struct sink *sink, const char *path);   /* hide everything below path of the lower layers */
	int (*drop)(struct sink *sink, const char *path);     /* remove path, whichever layer brought it */
	int (*end_layer)(struct sink *sink);
	void (*close)(struct sink *sink);
};

struct sink {
	const struct sink_ops *ops;
	struct sink_report *report;
	struct sink_stats *stats;
};

/* Record the layer's own fault; returns -EBADMSG. A later call does not overwrite an earlier one. */
int sink_refuse(struct sink_report *report, const char *detail);

/* Record the system's failure of an operation; rc is -errno and is returned. */
int sink_failed(struct sink_report *report, int rc, const char *operation);

/* The same for what came of resolving a path; 0 when rc is. */
int sink_path_failed(struct sink_report *report, int rc, const char *operation);

void sink_warn(struct sink_stats *stats, enum sink_warning kind, const char *path);

#endif
