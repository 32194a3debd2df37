/* SPDX-License-Identifier: Apache-2.0 */
#include "tar.h"

#include <string.h>

/* The ustar header. GNU's own layout differs after version: no prefix, but times and a sparse map. */
struct raw_header {
	unsigned char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type[1], link[100];
	unsigned char magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155], rest[12];
};
_Static_assert(sizeof(struct raw_header) == TAR_BLOCK, "a header is one block");

/* Base 256: bit 7 of the first byte is the mark, bit 6 the sign of a two's-complement number. */
static int base256(const unsigned char *field, size_t size, int64_t *ret_value)
{
	unsigned char fill = (field[0] & 0x40) ? 0xff : 0;
	uint64_t value = 0;

	for (size_t i = 0; i < size; i++) {
		unsigned char byte = (unsigned char)(field[i] ^ fill);

		if (i == 0)
			byte &= 0x7f;
		if (value >> 55)
			return -ERANGE;
		value = value << 8 | byte;
	}
	*ret_value = fill ? -(int64_t)value - 1 : (int64_t)value;
	return 0;
}

/* Octal with blanks or NULs around it, or base 256. Nothing at all is 0, as every reader has it. */
int tar_number(const unsigned char *field, size_t size, int64_t *ret_value)
{
	uint64_t value = 0;
	size_t i = 0;

	if (field[0] & 0x80)
		return base256(field, size, ret_value);
	while (i < size && (field[i] == ' ' || field[i] == '\0'))
		i++;
	for (; i < size && field[i] >= '0' && field[i] <= '7'; i++) {
		if (value >> 60)
			return -ERANGE;
		value = value << 3 | (uint64_t)(field[i] - '0');
	}
	while (i < size && field[i] == ' ')
		i++;
	if (i < size && field[i] != '\0')
		return -EINVAL;
	*ret_value = (int64_t)value;
	return 0;
}

/* POSIX sums unsigned bytes; some old writers summed signed ones, and every reader takes both. */
static bool checksum_ok(const unsigned char block[TAR_BLOCK])
{
	const size_t at = offsetof(struct raw_header, checksum);
	int64_t wanted, plain = 0, with_sign = 0;

	if (tar_number(block + at, 8, &wanted) < 0)
		return false;
	for (size_t i = 0; i < TAR_BLOCK; i++) {
		unsigned char byte = (i >= at && i < at + 8) ? ' ' : block[i];

		plain += byte;
		with_sign += (signed char)byte;
	}
	return wanted == plain || wanted == with_sign;
}

bool tar_block_is_zero(const unsigned char block[TAR_BLOCK])
{
	return block[0] == 0 && memcmp(block, block + 1, TAR_BLOCK - 1) == 0;
}

static int decode_id(const unsigned char field[8], uint32_t *ret_id, const char **ret_why)
{
	int64_t value;

	if (tar_number(field, 8, &value) < 0)
		return tar_bad(ret_why, "a number in its header is malformed");
	if (value < 0 || (uint64_t)value > TAR_ID_MAX)
		return tar_bad(ret_why, "its owner or group is outside 0 to 4294967294");
	*ret_id = (uint32_t)value;
	return 0;
}

static int decode_device(const struct raw_header *raw, struct tar_header *header, const char **ret_why)
{
	int64_t major, minor;

	/* Only devices have these, and v7 headers hold garbage there. */
	if ((header->type != '3' && header->type != '4') || memcmp(raw->magic, "ustar", 5) != 0)
		return 0;
	if (tar_number(raw->major, 8, &major) < 0 || tar_number(raw->minor, 8, &minor) < 0)
		return tar_bad(ret_why, "a number in its header is malformed");
	if (major < 0 || minor < 0 || major > UINT32_MAX || minor > UINT32_MAX)
		return tar_bad(ret_why, "its device number is out of range");
	header->major = (uint32_t)major;
	header->minor = (uint32_t)minor;
	return 0;
}

static void decode_names(const struct raw_header *raw, struct tar_header *header)
{
	size_t prefix_size = sizeof(raw->prefix), used = 0;

	/* Only POSIX headers have a prefix; star's, marked by "tar" at the end of the block, is shorter. */
	if (memcmp(raw->magic, "ustar\0", 6) == 0) {
		if (memcmp(raw->rest + 8, "tar", 4) == 0)
			prefix_size = 131;
		used = strnlen((const char *)raw->prefix, prefix_size);
		memcpy(header->path, raw->prefix, used);
		if (used)
			header->path[used++] = '/';
	}
	memcpy(header->path + used, raw->name, sizeof(raw->name));
	header->path[used + sizeof(raw->name)] = '\0';
	memcpy(header->link, raw->link, sizeof(raw->link));
	header->link[sizeof(raw->link)] = '\0';
}

int tar_header_decode(const unsigned char block[TAR_BLOCK], struct tar_header *ret_header, const char **ret_why)
{
	const struct raw_header *raw = (const struct raw_header *)block; /* all members are bytes: no alignment */
	int64_t mode, size;
	int rc;

	memset(ret_header, 0, sizeof(*ret_header));
	decode_names(raw, ret_header);
	if (!checksum_ok(block))
		return tar_bad(ret_why, "its header has a bad checksum");
	ret_header->type = (char)raw->type[0];
	ret_header->gnu = memcmp(raw->magic, "ustar  ", 7) == 0;
	if (tar_number(raw->mode, sizeof(raw->mode), &mode) < 0 ||
	    tar_number(raw->mtime, sizeof(raw->mtime), &ret_header->mtime_s) < 0)
		return tar_bad(ret_why, "a number in its header is malformed");
	if (tar_number(raw->size, sizeof(raw->size), &size) < 0 || size < 0)
		return tar_bad(ret_why, "its size is negative, too large or malformed");
	ret_header->size = (uint64_t)size;
	ret_header->mode = (uint32_t)mode & 07777; /* some writers store the file type there too */
	rc = decode_id(raw->uid, &ret_header->uid, ret_why);
	if (!rc)
		rc = decode_id(raw->gid, &ret_header->gid, ret_why);
	if (!rc)
		rc = decode_device(raw, ret_header, ret_why);
	return rc;
}
