/* SPDX-License-Identifier: Apache-2.0 */
#include "block.h"

#include <errno.h>
#include <string.h>

static int take(struct block_cursor *cursor, void *ret, size_t size)
{
	if ((size_t)(cursor->end - cursor->at) < size)
		return -EBADMSG;
	memcpy(ret, cursor->at, size);
	cursor->at += size;
	return 0;
}

static int take_string(struct block_cursor *cursor, const char **ret)
{
	uint32_t len;

	if (take(cursor, &len, sizeof(len)) < 0)
		return -EBADMSG;
	if ((size_t)(cursor->end - cursor->at) <= len)
		return -EBADMSG;
	if (memchr(cursor->at, '\0', (size_t)len + 1) != cursor->at + len)
		return -EBADMSG;
	*ret = (const char *)cursor->at;
	cursor->at += (size_t)len + 1;
	return 0;
}

static int take_record(struct block_cursor *cursor, struct block_record *ret)
{
	if (take(cursor, &ret->op, sizeof(ret->op)) < 0 || take(cursor, &ret->count, sizeof(ret->count)) < 0 ||
	    take(cursor, &ret->flags, sizeof(ret->flags)) < 0)
		return -EBADMSG;
	if (ret->count > BLOCK_MAX_STRINGS)
		return -EBADMSG;
	for (unsigned int i = 0; i < ret->count; i++)
		if (take_string(cursor, &ret->string[i]) < 0)
			return -EBADMSG;
	return 0;
}

/* The least number of strings that each operation reads. */
static int has_its_strings(const struct block_record *record)
{
	switch (record->op) {
	case OP_ROOT:
	case OP_UPPER:
	case OP_DIRECTORY:
	case OP_WORKDIR:
	case OP_ENV_UNSET:
	case OP_ARGUMENT:
	case OP_AFTER:
	case OP_CHECK_VARIABLE:
	case OP_CHECK_NAMES:
	case OP_HOLD:
	case OP_IMAGE:
	case OP_NOTE:
	case OP_WORD:
	case OP_SAME:
		return record->count >= 1;
	case OP_TMPFS:
	case OP_DEVICE:
		return record->count == 2 || record->count == 3;
	case OP_BIND:
	case OP_FILE:
	case OP_SYMLINK:
	case OP_COMMAND:
	case OP_ENV_SET:
	case OP_ENV_TASK:
	case OP_CHECK_FILE:
	case OP_CHECK_SAME:
		return record->count == 2;
	default:
		return 0;
	}
}

int block_open(struct block_cursor *ret_cursor, const void *data, size_t size)
{
	struct block_cursor cursor = { .at = data, .end = (const unsigned char *)data + size };
	struct block_record record;
	char magic[sizeof(BLOCK_MAGIC)];
	uint32_t stated;

	if (size > BLOCK_MAX_SIZE || take(&cursor, magic, sizeof(magic)) < 0 ||
	    memcmp(magic, BLOCK_MAGIC, sizeof(magic)) != 0 || take(&cursor, &stated, sizeof(stated)) < 0 ||
	    stated != size || take(&cursor, &cursor.left, sizeof(cursor.left)) < 0)
		return -EBADMSG;
	*ret_cursor = cursor;
	for (uint32_t i = 0; i < cursor.left; i++)
		if (take_record(&cursor, &record) < 0 || !has_its_strings(&record))
			return -EBADMSG;
	return cursor.at == cursor.end ? 0 : -EBADMSG;
}

int block_next(struct block_cursor *cursor, struct block_record *ret_record)
{
	if (!cursor->left || take_record(cursor, ret_record) < 0)
		return 0;
	cursor->left--;
	return 1;
}

uint32_t block_root_flags(const void *data, size_t size)
{
	struct block_cursor cursor;
	struct block_record record;

	if (block_open(&cursor, data, size) < 0 || block_next(&cursor, &record) != 1 || record.op != OP_ROOT)
		return 0;
	return record.flags;
}
