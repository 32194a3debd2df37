/* SPDX-License-Identifier: Apache-2.0
 *
 * PAX extended headers: records of the form "SIZE KEY=VALUE\n", where SIZE counts the whole record with itself:
 *
 *	18 path=some/name\n */
#include "tar.h"

#include <stdlib.h>
#include <string.h>

#define MALFORMED "its extended header is malformed"

struct record {
	const char *key;
	char *value; /* NUL-terminated in place of the newline; may hold NULs of its own */
	size_t size;
};

static bool key_is(const struct record *record, const char *key)
{
	return strcmp(record->key, key) == 0;
}

/* Text that becomes a path: a NUL inside would make us and others see different names. */
static int set_text(struct tar *tar, const struct record *record, const char **ret_text)
{
	if (memchr(record->value, '\0', record->size))
		return tar_bad(&tar->why, "a name in its extended header holds a NUL");
	*ret_text = record->size ? record->value : NULL; /* POSIX: an empty value takes the record back */
	return 0;
}

static int set_number(struct tar *tar, const struct record *record, uint64_t max, uint64_t *ret_value, bool *ret_has)
{
	*ret_has = record->size > 0;
	if (!*ret_has)
		return 0;
	if (!tar_decimal(record->value, record->size, ret_value))
		return tar_bad(&tar->why, "a number in its extended header is malformed");
	if (*ret_value > max)
		return tar_bad(&tar->why, max == TAR_ID_MAX ? "its owner or group is outside 0 to 4294967294"
							     : "its size is negative, too large or malformed");
	return 0;
}

static int set_id(struct tar *tar, const struct record *record, uint32_t *ret_id, bool *ret_has)
{
	uint64_t value = 0;
	int rc = set_number(tar, record, TAR_ID_MAX, &value, ret_has);

	*ret_id = (uint32_t)value;
	return rc;
}

/* [-]SECONDS[.FRACTION], any number of digits; seconds saturate far outside what is used, a fraction is cut to ns. */
static int set_mtime(struct tar *tar, const struct record *record)
{
	const char *p = record->value;
	int64_t seconds = 0, nanoseconds = 0, unit = 100000000;
	bool minus = *p == '-', digits = false;

	tar->extras.has_mtime = record->size > 0;
	if (!tar->extras.has_mtime)
		return 0;
	for (p += minus; *p >= '0' && *p <= '9'; p++, digits = true)
		seconds = seconds > INT64_MAX / 100 ? seconds : seconds * 10 + (*p - '0');
	if (*p == '.') {
		for (p++; *p >= '0' && *p <= '9'; p++, unit /= 10)
			nanoseconds += unit * (*p - '0');
	}
	if (!digits || p != record->value + record->size)
		return tar_bad(&tar->why, "a time in its extended header is malformed");
	if (minus) { /* -1.25 s is 2 s before the epoch and 750 ms onwards */
		seconds = -seconds - (nanoseconds ? 1 : 0);
		nanoseconds = nanoseconds ? 1000000000 - nanoseconds : 0;
	}
	tar->extras.mtime_s = seconds;
	tar->extras.mtime_ns = (uint32_t)nanoseconds;
	return 0;
}

static int add_xattr(struct tar *tar, const char *name, const struct record *record)
{
	struct tar_extras *extras = &tar->extras;

	if (extras->xattr_count == extras->xattr_space) {
		size_t space = extras->xattr_space ? extras->xattr_space * 2 : 8;
		struct sink_xattr *more = reallocarray(extras->xattrs, space, sizeof(*more));

		if (!more)
			return -ENOMEM;
		extras->xattrs = more;
		extras->xattr_space = space;
	}
	extras->xattrs[extras->xattr_count++] = (struct sink_xattr){ name, record->value, record->size };
	return 0;
}

static int set_map(struct tar *tar, const struct record *record)
{
	const char *p = record->value, *end = p + record->size;
	uint64_t value;
	int rc = 0;

	tar->map.count = 0;
	tar->map.have_half = false;
	while (p < end && !rc) {
		const char *comma = memchr(p, ',', (size_t)(end - p));
		size_t size = (size_t)((comma ? comma : end) - p);

		if (!tar_decimal(p, size, &value))
			return tar_bad(&tar->why, "its sparse map is malformed");
		rc = tar_map_number(tar, value);
		p += size + (comma ? 1 : 0);
	}
	return rc;
}

static int set_sparse(struct tar *tar, const struct record *record)
{
	struct tar_extras *extras = &tar->extras;
	const char *key = record->key + strlen("GNU.sparse.");
	uint64_t value = 0;
	bool has;
	int rc;

	extras->sparse = true;
	if (strcmp(key, "name") == 0)
		return set_text(tar, record, &extras->sparse_name);
	if (strcmp(key, "map") == 0)
		return set_map(tar, record);
	if (strcmp(key, "size") == 0 || strcmp(key, "realsize") == 0)
		return set_number(tar, record, INT64_MAX, &extras->real_size, &extras->has_real_size);
	if (strcmp(key, "major") == 0)
		return set_number(tar, record, INT64_MAX, &extras->sparse_major, &has);
	if (strcmp(key, "minor") == 0)
		return set_number(tar, record, INT64_MAX, &extras->sparse_minor, &has);
	if (strcmp(key, "offset") == 0 || strcmp(key, "numbytes") == 0) {
		/* Version 0.0 repeats these two in turn. */
		if (tar->map.have_half != (strcmp(key, "numbytes") == 0))
			return tar_bad(&tar->why, "its sparse map is malformed");
		rc = set_number(tar, record, INT64_MAX, &value, &has);
		return rc ? rc : tar_map_number(tar, value);
	}
	return 0; /* numblocks: counted by us */
}

static int set_record(struct tar *tar, const struct record *record)
{
	static const char xattr[] = "SCHILY.xattr.", sparse[] = "GNU.sparse.";
	struct tar_extras *extras = &tar->extras;

	if (key_is(record, "path"))
		return set_text(tar, record, &extras->path);
	if (key_is(record, "linkpath"))
		return set_text(tar, record, &extras->link);
	if (key_is(record, "size"))
		return set_number(tar, record, INT64_MAX, &extras->size, &extras->has_size);
	if (key_is(record, "uid"))
		return set_id(tar, record, &extras->uid, &extras->has_uid);
	if (key_is(record, "gid"))
		return set_id(tar, record, &extras->gid, &extras->has_gid);
	if (key_is(record, "mtime"))
		return set_mtime(tar, record);
	if (strncmp(record->key, xattr, sizeof(xattr) - 1) == 0)
		return add_xattr(tar, record->key + sizeof(xattr) - 1, record);
	if (strncmp(record->key, sparse, sizeof(sparse) - 1) == 0)
		return set_sparse(tar, record);
	return 0; /* atime, ctime, uname, comment, vendors' own: no meaning here */
}

int tar_pax_parse(struct tar *tar, char *body, size_t size)
{
	size_t at = 0;

	while (at < size) {
		char *start = body + at, *blank = memchr(start, ' ', size - at), *equals;
		struct record record;
		uint64_t length;
		int rc;

		if (!blank || !tar_decimal(start, (size_t)(blank - start), &length))
			return tar_bad(&tar->why, MALFORMED);
		if (length > size - at || length < (uint64_t)(blank - start) + 2 || start[length - 1] != '\n')
			return tar_bad(&tar->why, MALFORMED);
		start[length - 1] = '\0';
		equals = memchr(blank + 1, '=', (size_t)(start + length - 1 - (blank + 1)));
		if (!equals || equals == blank + 1 || memchr(blank + 1, '\0', (size_t)(equals - (blank + 1))))
			return tar_bad(&tar->why, MALFORMED);
		*equals = '\0';
		record = (struct record){ blank + 1, equals + 1, (size_t)(start + length - 1 - (equals + 1)) };
		rc = set_record(tar, &record);
		if (rc)
			return rc;
		at += length;
	}
	return 0;
}

bool tar_extras_pending(const struct tar_extras *extras)
{
	return extras->records || extras->long_path || extras->long_link;
}

void tar_extras_clear(struct tar_extras *extras)
{
	free(extras->records);
	free(extras->long_path);
	free(extras->long_link);
	free(extras->xattrs);
	*extras = (struct tar_extras){ 0 };
}
