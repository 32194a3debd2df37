/* SPDX-License-Identifier: Apache-2.0
 *
 * Maps of sparse files: pairs of offset and size of the data that is stored, everything else being a hole. Four ways
 * to write them: pairs in the header and in blocks behind it (GNU), PAX records that repeat (0.0), one PAX record
 * "offset,size,offset,size" (0.1), and text at the head of the body, padded to a block (1.0):
 *
 *	2\n          two regions
 *	0\n 512\n    512 bytes at 0
 *	4096\n 0\n   nothing at 4096: the end of the file */
#include "tar.h"

#include <stdlib.h>

bool tar_decimal(const char *text, size_t size, uint64_t *ret_value)
{
	uint64_t value = 0;

	if (!size)
		return false;
	for (size_t i = 0; i < size; i++) {
		if (text[i] < '0' || text[i] > '9')
			return false;
		if (__builtin_mul_overflow(value, 10, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(text[i] - '0'), &value))
			return false;
	}
	*ret_value = value;
	return true;
}

static int add_region(struct tar *tar, uint64_t offset, uint64_t size)
{
	struct tar_map *map = &tar->map;

	if (map->count == tar->region_limit)
		return tar_bad(&tar->why, "its sparse map is too long");
	if (map->count == map->space) {
		size_t space = map->space ? map->space * 2 : 64;
		struct tar_region *more = reallocarray(map->regions, space, sizeof(*more));

		if (!more)
			return -ENOMEM;
		map->regions = more;
		map->space = space;
	}
	map->regions[map->count++] = (struct tar_region){ offset, size };
	return 0;
}

int tar_map_number(struct tar *tar, uint64_t value)
{
	struct tar_map *map = &tar->map;

	if (!map->have_half) {
		map->half = value;
		map->have_half = true;
		return 0;
	}
	map->have_half = false;
	return add_region(tar, map->half, value);
}

int tar_map_gnu(struct tar *tar, const unsigned char *pairs, size_t count)
{
	int64_t offset, size;
	int rc = 0;

	for (; count && !rc; count--, pairs += 24) {
		if (pairs[0] == '\0') /* an unused slot */
			break;
		if (tar_number(pairs, 12, &offset) < 0 || tar_number(pairs + 12, 12, &size) < 0 || offset < 0 || size < 0)
			return tar_bad(&tar->why, "its sparse map is malformed");
		rc = add_region(tar, (uint64_t)offset, (uint64_t)size);
	}
	return rc;
}

int tar_map_text(struct tar *tar, const unsigned char *text, size_t size, bool *ret_done)
{
	for (size_t i = 0; i < size; i++) {
		int rc;

		if (tar->map_counted && !tar->map_left)
			break; /* padding */
		if (text[i] >= '0' && text[i] <= '9') {
			if (tar->map_value > UINT64_MAX / 16)
				return tar_bad(&tar->why, "its sparse map is malformed");
			tar->map_value = tar->map_value * 10 + (uint64_t)(text[i] - '0');
			tar->map_digit = true;
			continue;
		}
		if (text[i] != '\n' || !tar->map_digit)
			return tar_bad(&tar->why, "its sparse map is malformed");
		if (!tar->map_counted) {
			if (tar->map_value > tar->region_limit)
				return tar_bad(&tar->why, "its sparse map is too long");
			tar->map_counted = true;
			tar->map_left = 2 * tar->map_value;
		} else {
			rc = tar_map_number(tar, tar->map_value);
			if (rc)
				return rc;
			tar->map_left--;
		}
		tar->map_value = 0;
		tar->map_digit = false;
	}
	*ret_done = tar->map_counted && !tar->map_left;
	return 0;
}

int tar_map_check(struct tar *tar, uint64_t stored, uint64_t logical)
{
	uint64_t end = 0, sum = 0;

	if (tar->map.have_half)
		return tar_bad(&tar->why, "its sparse map is malformed");
	for (size_t i = 0; i < tar->map.count; i++) {
		const struct tar_region *region = &tar->map.regions[i];

		/* No overflow: both are held against logical, which a 63-bit field or a decimal bounds. */
		if (region->offset < end || region->offset > logical || region->size > logical - region->offset)
			return tar_bad(&tar->why, "its sparse map is malformed");
		end = region->offset + region->size;
		sum += region->size;
	}
	if (sum != stored)
		return tar_bad(&tar->why, "its sparse map does not fit the data stored");
	return 0;
}

void tar_map_clear(struct tar_map *map)
{
	free(map->regions);
	*map = (struct tar_map){ 0 };
}
