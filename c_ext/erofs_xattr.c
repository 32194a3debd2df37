/* SPDX-License-Identifier: Apache-2.0
 *
 * The xattrs of one inode, as they stand behind it. All names begin with "user.", which is a prefix that has a number. */
#include "erofs_image.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "erofs_reader.h"

#define PREFIX "user."

/* What overlayfs, mounted with userxattr, is told of a directory. */
static const char OPAQUE[] = "overlay.opaque", ORIGIN[] = "overlay.origin";

enum {
	PREFIX_SIZE = sizeof(PREFIX) - 1,
	OPAQUE_SIZE = (sizeof(struct erofs_xattr_entry) + sizeof(OPAQUE) - 1 + 1 + 3) & ~3U,
	ORIGIN_SIZE = (sizeof(struct erofs_xattr_entry) + sizeof(ORIGIN) - 1 + 3) & ~3U,
	OURS_MAX = EROFS_XATTR_AREA_MAX - OPAQUE_SIZE - ORIGIN_SIZE,
};

static int by_name(const void *one, const void *two)
{
	const struct sink_xattr *a = *(const struct sink_xattr *const *)one, *b = *(const struct sink_xattr *const *)two;
	int order = strcmp(a->name, b->name);

	return order ? order : (a > b) - (a < b);
}

static size_t entry_size(const struct sink_xattr *xattr)
{
	return (sizeof(struct erofs_xattr_entry) + strlen(xattr->name) - PREFIX_SIZE + xattr->size + 3) & ~(size_t)3;
}

/* Leave the xattrs that can be held, each name once: the last one of the archive. Returns their size in all. */
static size_t choose(struct erofs_image *image, const struct sink_xattr **list, size_t *count, const char *path)
{
	size_t kept = 0, size = sizeof(struct erofs_xattr_header);

	for (size_t i = 0; i < *count; i++) {
		if (i + 1 < *count && strcmp(list[i]->name, list[i + 1]->name) == 0)
			continue;
		if (list[i]->size > EROFS_XATTR_VALUE_MAX || size + entry_size(list[i]) > OURS_MAX) {
			sink_warn(image->sink.stats, SINK_WARN_XATTR_UNSUPPORTED, path);
			continue;
		}
		size += entry_size(list[i]);
		list[kept++] = list[i];
	}
	*count = kept;
	return size;
}

static void *put(unsigned char *at, const char *name, const void *value, size_t size)
{
	struct erofs_xattr_entry entry = {
		.name_size = (uint8_t)strlen(name),
		.prefix = EROFS_XATTR_USER,
		.value_size = htole16((uint16_t)size),
	};

	memcpy(at, &entry, sizeof(entry));
	memcpy(at + sizeof(entry), name, entry.name_size);
	if (size)
		memcpy(at + sizeof(entry) + entry.name_size, value, size);
	return at + ((sizeof(entry) + entry.name_size + size + 3) & ~(size_t)3);
}

int erofs_xattrs_pack(struct erofs_image *image, struct erofs_inode *inode, const struct sink_entry *entry)
{
	size_t count = entry->xattr_count, size;
	const struct sink_xattr **list;
	unsigned char *at;
	int rc = 0;

	if (!count)
		return 0;
	list = calloc(count, sizeof(*list));
	if (!list)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		list[i] = &entry->xattrs[i];
	qsort(list, count, sizeof(struct sink_xattr *), by_name);
	size = choose(image, list, &count, entry->path);
	if (count) {
		inode->xattrs = erofs_body(image, NULL, size, &rc);
		inode->xattr_size = inode->xattrs ? (uint32_t)size : 0;
	}
	at = inode->xattrs ? (unsigned char *)inode->xattrs + sizeof(struct erofs_xattr_header) : NULL;
	for (size_t i = 0; at && i < count; i++)
		at = put(at, list[i]->name + PREFIX_SIZE, list[i]->value, list[i]->size);
	free(list);
	return rc;
}

size_t erofs_xattrs_size(const struct erofs_inode *inode)
{
	size_t ours = 0;

	if (inode->flags & EROFS_OPAQUE)
		ours += OPAQUE_SIZE;
	if (inode->flags & EROFS_ORIGIN)
		ours += ORIGIN_SIZE;
	if (ours && !inode->xattr_size)
		ours += sizeof(struct erofs_xattr_header);
	return inode->xattr_size + ours;
}

int erofs_xattrs_write(struct erofs_image *image, const struct erofs_inode *inode)
{
	unsigned char ours[sizeof(struct erofs_xattr_header) + OPAQUE_SIZE + ORIGIN_SIZE] = { 0 };
	unsigned char *at = ours + (inode->xattr_size ? 0 : sizeof(struct erofs_xattr_header));
	int rc = 0;

	if (inode->xattr_size)
		rc = erofs_output_write(&image->out, inode->xattrs, inode->xattr_size);
	if (inode->flags & EROFS_OPAQUE)
		at = put(at, OPAQUE, "y", 1);
	if (inode->flags & EROFS_ORIGIN)
		at = put(at, ORIGIN, NULL, 0);
	if (!rc && inode->flags & (EROFS_OPAQUE | EROFS_ORIGIN))
		rc = erofs_output_write(&image->out, ours, (size_t)(at - ours));
	return rc;
}

/* The entry at *at of an area; false at its end. A piece that does not fit ends it, too. */
static bool next_entry(const unsigned char *area, size_t size, size_t *at, size_t *ret_size)
{
	struct erofs_xattr_entry entry;
	size_t length;

	if (size - *at < sizeof(entry))
		return false;
	memcpy(&entry, area + *at, sizeof(entry));
	length = (sizeof(entry) + entry.name_size + (size_t)le16toh(entry.value_size) + 3) & ~(size_t)3;
	*ret_size = length;
	return length <= size - *at;
}

static bool is_entry(const unsigned char *at, const char *name)
{
	struct erofs_xattr_entry entry;

	memcpy(&entry, at, sizeof(entry));
	return entry.prefix == EROFS_XATTR_USER && entry.name_size == strlen(name) &&
	       memcmp(at + sizeof(entry), name, entry.name_size) == 0;
}

bool erofs_xattrs_opaque(const void *area, size_t size)
{
	size_t at = sizeof(struct erofs_xattr_header), length;

	if (size < at)
		return false;
	for (; next_entry(area, size, &at, &length); at += length) {
		if (is_entry((const unsigned char *)area + at, OPAQUE))
			return true;
	}
	return false;
}

size_t erofs_xattrs_strip(void *area, size_t size)
{
	size_t at = sizeof(struct erofs_xattr_header), kept = at, length;
	unsigned char *p = area;

	if (size < at)
		return 0;
	for (; next_entry(p, size, &at, &length); at += length) {
		if (is_entry(p + at, OPAQUE) || is_entry(p + at, ORIGIN))
			continue;
		memmove(p + kept, p + at, length);
		kept += length;
	}
	return kept > sizeof(struct erofs_xattr_header) ? kept : 0;
}
