/* SPDX-License-Identifier: Apache-2.0
 *
 * A tar reader that is pushed bytes and hands out events: v7, ustar, GNU (long names, base-256 numbers, sparse) and
 * PAX (path, linkpath, size, uid, gid, mtime, SCHILY.xattr.*, GNU.sparse 0.0, 0.1 and 1.0).
 *
 * It knows the format and nothing else: a name is handed out as it stands, whatever it may mean on a disk. It refuses
 * bad checksums, numbers outside their range, unknown types, and extended headers above a given size, so its memory is
 * bounded by the limits. Everything here is hostile input.
 *
 * Source: POSIX.1-2017 pax(1) "pax Interchange Format", "ustar Interchange Format"; GNU tar manual, "Basic Tar
 * Format" and "Storing Sparse Files". */
#ifndef FAIRLEAD_TAR_H
#define FAIRLEAD_TAR_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sink.h"

enum { TAR_BLOCK = 512 };

/* 2^32-1 is (uid_t)-1, which chown(2) reads as "leave alone". */
#define TAR_ID_MAX UINT64_C(4294967294)

enum tar_event_type { TAR_MORE, TAR_ENTRY, TAR_DATA, TAR_ENTRY_END, TAR_EOF };

struct tar_event {
	enum tar_event_type type;
	const struct sink_entry *entry; /* TAR_ENTRY; valid until TAR_ENTRY_END */
	uint64_t offset;		/* TAR_DATA: where in the file */
	const unsigned char *data;
	size_t size;
};

struct tar_region {
	uint64_t offset, size;
};

struct tar_map {
	struct tar_region *regions;
	size_t count, space;
	uint64_t half; /* GNU.sparse 0.0 and 0.1, 1.0: an offset that waits for its size */
	bool have_half;
};

/* One 512-byte header, decoded. */
struct tar_header {
	char type;
	bool gnu;
	uint64_t size;
	uint32_t mode, uid, gid, major, minor;
	int64_t mtime_s;
	char path[155 + 1 + 100 + 1];
	char link[100 + 1];
};

/* What extended headers said about the entry that follows. Pointers lead into the owned bodies. */
struct tar_extras {
	char *records, *long_path, *long_link; /* bodies of 'x', 'L' and 'K', owned */
	const char *path, *link, *sparse_name;
	bool has_size, has_uid, has_gid, has_mtime, has_real_size;
	uint64_t size, real_size;
	uint32_t uid, gid, mtime_ns;
	int64_t mtime_s;
	uint64_t sparse_major, sparse_minor;
	bool sparse;
	struct sink_xattr *xattrs;
	size_t xattr_count, xattr_space;
};

struct tar {
	uint64_t meta_bytes;  /* limit of one extended header */
	size_t region_limit;  /* limit of a sparse map */
	const char *why;      /* set when -EBADMSG is returned */
	const char *name;     /* of the header read last, for messages; never NULL after tar_start */
	int state;
	unsigned char block[TAR_BLOCK];
	size_t have;	    /* bytes of block that are filled */
	unsigned int zeros; /* zero blocks in a row */

	char meta_type;
	char *meta;
	size_t meta_size, meta_have;

	struct tar_header header;
	struct tar_extras extras;
	struct tar_map map;
	struct sink_entry entry;
	uint64_t stored;  /* bytes of the body still to come */
	uint64_t padding; /* bytes of padding still to come */
	uint64_t padding_due;
	uint64_t offset;  /* where the next byte goes */
	bool sparse;
	size_t region;	      /* the region being filled */
	uint64_t region_done; /* bytes of it already handed out */

	uint64_t map_value, map_left; /* the map at the head of a PAX 1.0 sparse body */
	bool map_counted, map_digit;
};

/* Prepare for a new archive. The limits are plain fields, set by the caller. */
void tar_start(struct tar *tar);

/* Take bytes from *data, *size and return the next event. TAR_MORE: all were taken. Data is not copied: it is valid
 * as long as the caller's buffer. Returns 0, -ENOMEM, or -EBADMSG with tar->why set. */
int tar_next(struct tar *tar, const unsigned char **data, size_t *size, struct tar_event *ret_event);

/* Say that no more bytes come: -EBADMSG when the archive is cut short. No end-of-archive blocks are needed. */
int tar_finish(struct tar *tar);

void tar_free(struct tar *tar);

/* tar_header.c */
int tar_header_decode(const unsigned char block[TAR_BLOCK], struct tar_header *ret_header, const char **ret_why);
bool tar_block_is_zero(const unsigned char block[TAR_BLOCK]);
int tar_number(const unsigned char *field, size_t size, int64_t *ret_value);

/* tar_pax.c */
int tar_pax_parse(struct tar *tar, char *body, size_t size);
void tar_extras_clear(struct tar_extras *extras);
bool tar_extras_pending(const struct tar_extras *extras);

/* tar_sparse.c */
int tar_map_number(struct tar *tar, uint64_t value);
int tar_map_gnu(struct tar *tar, const unsigned char *pairs, size_t count);
int tar_map_text(struct tar *tar, const unsigned char *text, size_t size, bool *ret_done);
int tar_map_check(struct tar *tar, uint64_t stored, uint64_t logical);
void tar_map_clear(struct tar_map *map);

/* Decimal digits only; the whole of text. Returns false on anything else or above UINT64_MAX. */
bool tar_decimal(const char *text, size_t size, uint64_t *ret_value);

static inline int tar_bad(const char **ret_why, const char *why)
{
	*ret_why = why;
	return -EBADMSG;
}

#endif
