/* SPDX-License-Identifier: Apache-2.0 */
#include "plan_expand.h"

#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "block.h"

struct buffer {
	char *data;
	size_t used, size;
};

static int put(struct buffer *out, const void *data, size_t size)
{
	size_t wanted = out->size;
	char *grown;

	if (size > BLOCK_MAX_SIZE - out->used)
		return -ENAMETOOLONG;
	while (wanted < out->used + size)
		wanted = wanted ? 2 * wanted : 4096;
	if (wanted != out->size) {
		grown = realloc(out->data, wanted);
		if (!grown)
			return -ENOMEM;
		out->data = grown;
		out->size = wanted;
	}
	memcpy(out->data + out->used, data, size);
	out->used += size;
	return 0;
}

const char *plan_variable(char *const *environment, const char *name, size_t length)
{
	for (; *environment; environment++)
		if (strncmp(*environment, name, length) == 0 && (*environment)[length] == '=')
			return *environment + length + 1;
	return NULL;
}

static int is_name(const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if (!(text[i] == '_' || (text[i] >= 'A' && text[i] <= 'Z') || (text[i] >= 'a' && text[i] <= 'z') ||
		      (i && text[i] >= '0' && text[i] <= '9')))
			return 0;
	return length > 0;
}

int plan_expand_text(const char *text, char *const *environment, char *ret, size_t size)
{
	size_t used = 0, length;
	const char *piece;

	while (*text) {
		if (text[0] == '$' && text[1] == '{') {
			length = strcspn(text + 2, "}");
			if (text[2 + length] != '}' || !is_name(text + 2, length))
				return -EBADMSG;
			piece = plan_variable(environment, text + 2, length);
			text += length + 3;
			if (!piece)
				return -ENOENT;
			length = strlen(piece);
		} else {
			piece = text;
			length = 1 + strcspn(text + 1, "$");
			text += length;
		}
		if (length >= size - used)
			return -ENAMETOOLONG;
		memcpy(ret + used, piece, length);
		used += length;
	}
	if (used >= size)
		return -ENAMETOOLONG;
	while (used > 1 && ret[used - 1] == '/')
		used--;
	ret[used] = '\0';
	return 0;
}

static int put_string(struct buffer *out, const char *text)
{
	uint32_t length = (uint32_t)strlen(text); /* of a block's string: below BLOCK_MAX_SIZE */
	int err = put(out, &length, sizeof(length));

	return err ? err : put(out, text, (size_t)length + 1);
}

static int put_record(struct buffer *out, const struct block_record *record, char *const *environment)
{
	int template = record->op != OP_DEVICE && (record->flags & RECORD_TEMPLATE); /* a device's flags are its number */
	uint32_t flags = template ? record->flags & ~(uint32_t)RECORD_TEMPLATE : record->flags;
	char text[PATH_MAX];
	int err;

	err = put(out, &record->op, sizeof(record->op));
	if (!err)
		err = put(out, &record->count, sizeof(record->count));
	if (!err)
		err = put(out, &flags, sizeof(flags));
	for (unsigned int i = 0; !err && i < record->count; i++) {
		if (!template) {
			err = put_string(out, record->string[i]);
			continue;
		}
		err = plan_expand_text(record->string[i], environment, text, sizeof(text));
		if (!err)
			err = put_string(out, text);
	}
	return err;
}

int plan_expand(const void *block, size_t size, char *const *environment, void **ret_block, size_t *ret_size)
{
	struct buffer out = { 0 };
	struct block_cursor cursor;
	struct block_record record;
	uint32_t numbers[2] = { 0, 0 }; /* size, records */
	int err;

	err = block_open(&cursor, block, size);
	if (!err)
		err = put(&out, BLOCK_MAGIC, sizeof(BLOCK_MAGIC));
	if (!err)
		err = put(&out, numbers, sizeof(numbers));
	while (!err && block_next(&cursor, &record)) {
		if (record.op >= OP_CHECK_FILE)
			continue;
		err = put_record(&out, &record, environment);
		numbers[1]++;
	}
	if (err) {
		free(out.data);
		return err;
	}
	numbers[0] = (uint32_t)out.used;
	memcpy(out.data + sizeof(BLOCK_MAGIC), numbers, sizeof(numbers));
	*ret_block = out.data;
	*ret_size = out.used;
	return 0;
}
