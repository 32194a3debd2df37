/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads back what the image sink wrote, and nothing else of what EROFS can be. The file may be damaged: every offset is
 * checked, nothing is mapped, and what makes no sense is -EBADMSG. */
#ifndef FAIRLEAD_EROFS_READER_H
#define FAIRLEAD_EROFS_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "erofs_format.h"

/* A few blocks that were read last, of all images. */
struct erofs_cache {
	struct erofs_cached {
		int fd;
		uint64_t block; /* 0: empty, which is the superblock's and never asked for */
		unsigned char data[EROFS_BLOCK];
	} blocks[64];
};

struct erofs_reader {
	int fd;
	uint64_t size; /* of the file */
	uint64_t meta_start;
	uint64_t root_nid;
	struct erofs_cache *cache;
};

struct erofs_found {
	uint64_t nid;
	uint64_t size;
	uint64_t block; /* of the data that is not inline; a device's number */
	uint64_t xattrs_at, xattr_size;
	uint64_t tail_at, tail_size;
	int64_t mtime_s;
	uint32_t mtime_ns;
	uint32_t nlink;
	uint16_t mode;
};

struct erofs_name {
	const char *text;
	size_t size;
	uint64_t nid;
};

int erofs_reader_open(int fd, struct erofs_cache *cache, struct erofs_reader *ret_reader);
int erofs_reader_inode(const struct erofs_reader *reader, uint64_t nid, struct erofs_found *ret_found);
int erofs_reader_data(const struct erofs_reader *reader, const struct erofs_found *found, uint64_t offset, void *data,
		      size_t size);

/* -ENOENT when the directory has no such name. */
int erofs_reader_find(const struct erofs_reader *reader, const struct erofs_found *dir, const char *name, size_t size,
		      uint64_t *ret_nid);

/* The names of one block of a directory, one by one: *at is 0 at first. 0 at the end, 1 for a name, or -errno. */
int erofs_block_next(const unsigned char *block, size_t size, size_t *at, struct erofs_name *ret_name);

/* Call back with each name of a directory but its dots, until that returns other than 0, which is returned. */
int erofs_reader_each(const struct erofs_reader *reader, const struct erofs_found *dir,
		      int (*found)(void *context, const struct erofs_name *name), void *context);

/* The area behind the inode, xattr_size bytes, to be freed. */
int erofs_reader_xattrs(const struct erofs_reader *reader, const struct erofs_found *found, unsigned char **ret_area);

/* Overlayfs would not look below this directory. area as above. */
bool erofs_xattrs_opaque(const void *area, size_t size);

/* Take out what the sink put in for overlayfs, and close the gaps; returns the new size, 0 when nothing is left. */
size_t erofs_xattrs_strip(void *area, size_t size);

#endif
