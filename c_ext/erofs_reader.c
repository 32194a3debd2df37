/* SPDX-License-Identifier: Apache-2.0 */
#include "erofs_reader.h"

#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "erofs_crc.h"

static int read_all(int fd, uint64_t offset, void *data, size_t size)
{
	char *p = data;

	while (size) {
		ssize_t got = pread(fd, p, size, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -EBADMSG;
		p += got;
		offset += (uint64_t)got;
		size -= (size_t)got;
	}
	return 0;
}

static bool lies_in_file(const struct erofs_reader *reader, uint64_t offset, uint64_t size)
{
	return offset <= reader->size && size <= reader->size - offset;
}

static int cached_block(const struct erofs_reader *reader, uint64_t block, const unsigned char **ret_data)
{
	size_t count = sizeof(reader->cache->blocks) / sizeof(reader->cache->blocks[0]);
	struct erofs_cached *slot = &reader->cache->blocks[(block + 7 * (uint64_t)(unsigned int)reader->fd) % count];
	int rc = 0;

	if (slot->block != block || slot->fd != reader->fd) {
		slot->block = 0;
		rc = read_all(reader->fd, block << EROFS_BLOCK_BITS, slot->data, EROFS_BLOCK);
		if (!rc) {
			slot->block = block;
			slot->fd = reader->fd;
		}
	}
	*ret_data = slot->data;
	return rc;
}

/* Metadata and directories; the file's size is a multiple of the block. */
static int read_cached(const struct erofs_reader *reader, uint64_t offset, void *data, size_t size)
{
	unsigned char *p = data;

	if (offset < EROFS_BLOCK || !lies_in_file(reader, offset, size))
		return -EBADMSG;
	while (size) {
		size_t from = offset % EROFS_BLOCK, some = EROFS_BLOCK - from < size ? EROFS_BLOCK - from : size;
		const unsigned char *block;
		int rc = cached_block(reader, offset >> EROFS_BLOCK_BITS, &block);

		if (rc)
			return rc;
		memcpy(p, block + from, some);
		p += some;
		offset += some;
		size -= some;
	}
	return 0;
}

int erofs_reader_open(int fd, struct erofs_cache *cache, struct erofs_reader *ret_reader)
{
	unsigned char block[EROFS_BLOCK];
	struct erofs_super super;
	uint32_t checksum;
	struct stat st;
	int rc;

	if (fstat(fd, &st) < 0)
		return -errno;
	rc = read_all(fd, 0, block, sizeof(block));
	if (rc)
		return rc;
	memcpy(&super, block + EROFS_SUPER_OFFSET, sizeof(super));
	checksum = le32toh(super.checksum);
	super.checksum = 0;
	memcpy(block + EROFS_SUPER_OFFSET, &super, sizeof(super));
	if (le32toh(super.magic) != EROFS_MAGIC || super.block_bits != EROFS_BLOCK_BITS || super.incompat ||
	    le32toh(super.compat) != (EROFS_COMPAT_CHECKSUM | EROFS_COMPAT_MTIME) ||
	    checksum != erofs_crc32c(block + EROFS_SUPER_OFFSET, EROFS_BLOCK - EROFS_SUPER_OFFSET) ||
	    (uint64_t)st.st_size != (uint64_t)le32toh(super.blocks) << EROFS_BLOCK_BITS)
		return -EBADMSG;
	*ret_reader = (struct erofs_reader){
		.fd = fd,
		.size = (uint64_t)st.st_size,
		.meta_start = (uint64_t)le32toh(super.meta_block) << EROFS_BLOCK_BITS,
		.root_nid = le16toh(super.root_nid),
		.cache = cache,
	};
	return 0;
}

int erofs_reader_inode(const struct erofs_reader *reader, uint64_t nid, struct erofs_found *ret_found)
{
	struct erofs_disk_inode disk;
	uint64_t at, xattrs;
	uint16_t format;
	int rc;

	if (nid > reader->size >> EROFS_NID_BITS)
		return -EBADMSG;
	at = reader->meta_start + (nid << EROFS_NID_BITS);
	rc = read_cached(reader, at, &disk, sizeof(disk));
	if (rc)
		return rc;
	format = le16toh(disk.format);
	xattrs = le16toh(disk.xattr_count);
	*ret_found = (struct erofs_found){
		.nid = nid,
		.size = le64toh(disk.size),
		.block = le32toh(disk.block),
		.xattrs_at = at + sizeof(disk),
		.xattr_size = xattrs ? sizeof(struct erofs_xattr_header) + 4 * (xattrs - 1) : 0,
		.mtime_s = (int64_t)le64toh(disk.mtime_s),
		.mtime_ns = le32toh(disk.mtime_ns),
		.nlink = le32toh(disk.nlink),
		.mode = le16toh(disk.mode),
	};
	if ((format != (EROFS_EXTENDED | EROFS_PLAIN) && format != (EROFS_EXTENDED | EROFS_INLINE)) ||
	    ret_found->size > INT64_MAX || ret_found->mtime_ns >= 1000000000)
		return -EBADMSG;
	if (format == (EROFS_EXTENDED | EROFS_INLINE)) {
		ret_found->tail_at = ret_found->xattrs_at + ret_found->xattr_size;
		ret_found->tail_size = ret_found->size % EROFS_BLOCK;
	}
	return 0;
}

int erofs_reader_data(const struct erofs_reader *reader, const struct erofs_found *found, uint64_t offset, void *data,
		      size_t size)
{
	uint64_t plain = found->size - found->tail_size, from = found->block << EROFS_BLOCK_BITS;
	unsigned char *p = data;
	int rc = 0;

	if (offset > found->size || size > found->size - offset)
		return -EBADMSG;
	if (offset < plain) {
		size_t some = plain - offset < size ? (size_t)(plain - offset) : size;

		if (!lies_in_file(reader, from, plain))
			return -EBADMSG;
		if (some <= EROFS_BLOCK)
			rc = read_cached(reader, from + offset, p, some);
		else
			rc = read_all(reader->fd, from + offset, p, some);
		p += some;
		offset += some;
		size -= some;
	}
	if (!rc && size)
		rc = read_cached(reader, found->tail_at + (offset - plain), p, size);
	return rc;
}

int erofs_block_next(const unsigned char *block, size_t size, size_t *at, struct erofs_name *ret_name)
{
	struct erofs_dirent first, dirent, next;
	size_t names, start, end;

	if (size < sizeof(dirent))
		return -EBADMSG;
	memcpy(&first, block, sizeof(first));
	names = le16toh(first.name_offset);
	if (names < sizeof(dirent) || names % sizeof(dirent) || names > size)
		return -EBADMSG;
	if (*at >= names)
		return 0;
	memcpy(&dirent, block + *at, sizeof(dirent));
	start = le16toh(dirent.name_offset);
	*at += sizeof(dirent);
	end = size;
	if (*at < names) {
		memcpy(&next, block + *at, sizeof(next));
		end = le16toh(next.name_offset);
	}
	if (start < names || end > size || start >= end)
		return -EBADMSG;
	ret_name->text = (const char *)block + start;
	ret_name->size = strnlen(ret_name->text, end - start);
	ret_name->nid = le64toh(dirent.nid);
	if (!ret_name->size || ret_name->size > NAME_MAX || memchr(ret_name->text, '/', ret_name->size))
		return -EBADMSG;
	return 1;
}

static int compare(const struct erofs_name *name, const char *text, size_t size)
{
	int order = memcmp(name->text, text, name->size < size ? name->size : size);

	return order ? order : (name->size > size) - (name->size < size);
}

static size_t block_size(const struct erofs_found *dir, uint64_t number)
{
	uint64_t left = dir->size - number * EROFS_BLOCK;

	return left < EROFS_BLOCK ? (size_t)left : EROFS_BLOCK;
}

/* The last block whose first name is not above the one that is looked for, as the kernel does it; in it, one by one. */
int erofs_reader_find(const struct erofs_reader *reader, const struct erofs_found *dir, const char *name, size_t size,
		      uint64_t *ret_nid)
{
	uint64_t low = 0, high = (dir->size + EROFS_BLOCK - 1) / EROFS_BLOCK;
	unsigned char block[EROFS_BLOCK];
	struct erofs_name seen;
	size_t at;
	int rc;

	while (high - low > 1) {
		uint64_t middle = low + (high - low) / 2;

		at = 0;
		rc = erofs_reader_data(reader, dir, middle * EROFS_BLOCK, block, block_size(dir, middle));
		if (!rc)
			rc = erofs_block_next(block, block_size(dir, middle), &at, &seen);
		if (rc <= 0)
			return rc ? rc : -EBADMSG;
		if (compare(&seen, name, size) > 0)
			high = middle;
		else
			low = middle;
	}
	if (!high)
		return -EBADMSG;
	rc = erofs_reader_data(reader, dir, low * EROFS_BLOCK, block, block_size(dir, low));
	if (rc)
		return rc;
	at = 0;
	while ((rc = erofs_block_next(block, block_size(dir, low), &at, &seen)) > 0) {
		if (compare(&seen, name, size) == 0) {
			*ret_nid = seen.nid;
			return 0;
		}
	}
	return rc ? rc : -ENOENT;
}

int erofs_reader_each(const struct erofs_reader *reader, const struct erofs_found *dir,
		      int (*found)(void *context, const struct erofs_name *name), void *context)
{
	unsigned char block[EROFS_BLOCK];

	for (uint64_t at = 0; at < dir->size; at += EROFS_BLOCK) {
		size_t size = block_size(dir, at / EROFS_BLOCK), place = 0;
		struct erofs_name name;
		int rc = erofs_reader_data(reader, dir, at, block, size);

		if (rc)
			return rc;
		while ((rc = erofs_block_next(block, size, &place, &name)) > 0) {
			if (name.text[0] == '.' && (name.size == 1 || (name.size == 2 && name.text[1] == '.')))
				continue;
			rc = found(context, &name);
			if (rc)
				return rc;
		}
		if (rc)
			return rc;
	}
	return 0;
}

int erofs_reader_xattrs(const struct erofs_reader *reader, const struct erofs_found *found, unsigned char **ret_area)
{
	int rc;

	*ret_area = malloc(found->xattr_size + 1);
	if (!*ret_area)
		return -ENOMEM;
	rc = read_cached(reader, found->xattrs_at, *ret_area, found->xattr_size);
	if (rc)
		free(*ret_area);
	return rc;
}
