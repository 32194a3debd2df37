/* SPDX-License-Identifier: Apache-2.0 */
#include "plan_entry.h"

#include <errno.h>
#include <string.h>

#include "block.h"

struct header {
	char magic[8];
	uint64_t checksum;
	uint64_t expires_s;
	uint32_t key_size;
	uint32_t block_size;
};

uint64_t plan_hash(const void *data, size_t size)
{
	const unsigned char *at = data;
	uint64_t hash = 0xcbf29ce484222325u;

	for (size_t i = 0; i < size; i++)
		hash = (hash ^ at[i]) * 0x100000001b3u;
	return hash;
}

int plan_entry_open(struct plan_entry *ret_entry, const void *data, size_t size)
{
	const size_t summed = offsetof(struct header, expires_s);
	const unsigned char *bytes = data;
	struct block_cursor cursor;
	struct header header;

	_Static_assert(sizeof(PLAN_ENTRY_MAGIC) == sizeof(header.magic), "the magic fills its field");
	if (size < sizeof(header) || size > PLAN_ENTRY_MAX_SIZE)
		return -EBADMSG;
	memcpy(&header, data, sizeof(header));
	if (memcmp(header.magic, PLAN_ENTRY_MAGIC, sizeof(header.magic)) != 0 ||
	    (uint64_t)header.key_size + header.block_size != size - sizeof(header) ||
	    header.checksum != plan_hash(bytes + summed, size - summed))
		return -EBADMSG;
	*ret_entry = (struct plan_entry){
		.expires_s = header.expires_s,
		.key = bytes + sizeof(header),
		.key_size = header.key_size,
		.block = bytes + sizeof(header) + header.key_size,
		.block_size = header.block_size,
	};
	return block_open(&cursor, ret_entry->block, ret_entry->block_size);
}
