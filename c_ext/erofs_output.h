/* SPDX-License-Identifier: Apache-2.0
 *
 * The image file, written front to back through one large buffer. Gaps stay holes of the file, which must be empty at
 * the start. The block that is not full yet is always in the buffer, so that a file's tail can be taken back. */
#ifndef FAIRLEAD_EROFS_OUTPUT_H
#define FAIRLEAD_EROFS_OUTPUT_H

#include <stddef.h>
#include <stdint.h>

struct erofs_output {
	int fd;
	unsigned char *buffer;
	uint64_t start; /* where in the file the buffer stands; a multiple of the block */
	size_t used;
	uint64_t begun; /* up to here the kernel was asked to begin writing to the disk */
};

int erofs_output_open(struct erofs_output *out, int fd);
void erofs_output_close(struct erofs_output *out);

static inline uint64_t erofs_output_at(const struct erofs_output *out)
{
	return out->start + out->used;
}

int erofs_output_write(struct erofs_output *out, const void *data, size_t size);
int erofs_output_skip(struct erofs_output *out, uint64_t to); /* what lies between reads as zeros */
int erofs_output_align(struct erofs_output *out);	      /* skip to the next block */
int erofs_output_flush(struct erofs_output *out);
int erofs_output_at_offset(struct erofs_output *out, uint64_t offset, const void *data, size_t size);

/* Take back the last size bytes, less than a block; the pointer is valid until the next call. */
const void *erofs_output_take_back(struct erofs_output *out, size_t size);

#endif
