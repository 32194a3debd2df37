/* SPDX-License-Identifier: Apache-2.0 */
#include "erofs_output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "erofs_format.h"

enum { BUFFER = 1 << 20, WRITEBACK = 8 << 20 };

int erofs_output_open(struct erofs_output *out, int fd)
{
	out->fd = fd;
	out->start = out->begun = out->used = 0;
	if (posix_memalign((void **)&out->buffer, EROFS_BLOCK, BUFFER))
		return -ENOMEM;
	return 0;
}

void erofs_output_close(struct erofs_output *out)
{
	free(out->buffer);
	out->buffer = NULL;
}

int erofs_output_at_offset(struct erofs_output *out, uint64_t offset, const void *data, size_t size)
{
	const char *p = data;

	while (size) {
		ssize_t written = pwrite(out->fd, p, size, (off_t)offset);

		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0)
			return -errno;
		if (!written)
			return -EIO;
		p += written;
		offset += (uint64_t)written;
		size -= (size_t)written;
	}
	return 0;
}

/* The disk may begin with what will not change any more, instead of with everything at the end's fsync. Of no
 * consequence if it fails. */
static void start_writeback(struct erofs_output *out)
{
	if (out->start - out->begun < WRITEBACK)
		return;
	sync_file_range(out->fd, (off_t)out->begun, (off_t)(out->start - out->begun), SYNC_FILE_RANGE_WRITE);
	out->begun = out->start;
}

/* The block that is not full stays, so that start stays a multiple of it. */
int erofs_output_flush(struct erofs_output *out)
{
	int rc = erofs_output_at_offset(out, out->start, out->buffer, out->used);
	size_t whole = out->used & ~(size_t)(EROFS_BLOCK - 1);

	if (rc)
		return rc;
	memmove(out->buffer, out->buffer + whole, out->used - whole);
	out->start += whole;
	out->used -= whole;
	start_writeback(out);
	return 0;
}

/* Whole blocks that come in one piece need not pass through the buffer. */
static int write_through(struct erofs_output *out, const char **data, size_t *size)
{
	size_t lack = -out->used & (EROFS_BLOCK - 1), whole = (*size - lack) & ~(size_t)(EROFS_BLOCK - 1);
	int rc;

	memcpy(out->buffer + out->used, *data, lack);
	out->used += lack;
	rc = erofs_output_flush(out);
	if (!rc)
		rc = erofs_output_at_offset(out, out->start, *data + lack, whole);
	out->start += whole;
	start_writeback(out);
	*data += lack + whole;
	*size -= lack + whole;
	return rc;
}

int erofs_output_write(struct erofs_output *out, const void *data, size_t size)
{
	const char *p = data;
	int rc = 0;

	if (size >= BUFFER / 4)
		rc = write_through(out, &p, &size);
	while (size && !rc) {
		size_t some = BUFFER - out->used < size ? BUFFER - out->used : size;

		memcpy(out->buffer + out->used, p, some);
		out->used += some;
		p += some;
		size -= some;
		if (out->used == BUFFER)
			rc = erofs_output_flush(out);
	}
	return rc;
}

int erofs_output_skip(struct erofs_output *out, uint64_t to)
{
	uint64_t block = to & ~(uint64_t)(EROFS_BLOCK - 1);
	int rc;

	if (to - out->start >= BUFFER) {
		rc = erofs_output_flush(out);
		if (rc)
			return rc;
		out->start = block;
		out->used = 0;
	}
	memset(out->buffer + out->used, 0, to - out->start - out->used);
	out->used = to - out->start;
	return 0;
}

int erofs_output_align(struct erofs_output *out)
{
	return erofs_output_skip(out, (erofs_output_at(out) + EROFS_BLOCK - 1) & ~(uint64_t)(EROFS_BLOCK - 1));
}

const void *erofs_output_take_back(struct erofs_output *out, size_t size)
{
	out->used -= size;
	return out->buffer + out->used;
}
