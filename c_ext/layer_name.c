/* SPDX-License-Identifier: Apache-2.0 */
#include "layer_name.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MARK ".wh."

static int bad(const char **ret_why, const char *why)
{
	*ret_why = why;
	return -EBADMSG;
}

int layer_name_clean(struct layer_name *name, const char *text, const char **ret_why)
{
	size_t length = strlen(text), used = 0;

	name->depth = 0;
	name->clamped = text[0] == '/';
	if (!length)
		return bad(ret_why, "its name is empty");
	if (name->space < length + 1) {
		char *more = realloc(name->path, length + 1);

		if (!more)
			return -ENOMEM;
		name->path = more;
		name->space = length + 1;
	}
	while (*text) {
		size_t size;

		text += strspn(text, "/");
		size = strcspn(text, "/");
		if (size == 2 && memcmp(text, "..", 2) == 0) {
			name->clamped = true;
			while (used && name->path[used - 1] != '/')
				used--;
			used -= used ? 1 : 0;
			name->depth -= name->depth ? 1 : 0;
		} else if (size && !(size == 1 && text[0] == '.')) {
			if (used)
				name->path[used++] = '/';
			memcpy(name->path + used, text, size);
			used += size;
			name->depth++;
		}
		text += size;
	}
	name->path[used] = '\0';
	return 0;
}

static bool has_mark(const char *component)
{
	return strncmp(component, MARK, strlen(MARK)) == 0;
}

static int check_parents(const char *path, const char **ret_why)
{
	for (const char *slash = strchr(path, '/'); slash; path = slash + 1, slash = strchr(path, '/')) {
		if (has_mark(path))
			return bad(ret_why, "a whiteout stands as a directory");
		if (slash - path > LAYER_NAME_MAX)
			return bad(ret_why, "a directory's name is longer than 255 bytes");
	}
	return 0;
}

/* aufs keeps its books in the root, in directories of these names. */
static bool is_aufs(const char *path)
{
	static const char *const books[] = { LAYER_LINK_DIR, ".wh..wh.aufs", ".wh..wh.orph" };

	for (size_t i = 0; i < sizeof(books) / sizeof(books[0]); i++) {
		size_t size = strlen(books[i]);

		if (strncmp(path, books[i], size) == 0 && (path[size] == '/' || path[size] == '\0'))
			return true;
	}
	return false;
}

int layer_name_classify(struct layer_name *name, enum layer_meaning *ret_meaning, const char **ret_why)
{
	char *last = strrchr(name->path, '/');
	int rc;

	last = last ? last + 1 : name->path;
	if (is_aufs(name->path)) {
		bool link = name->depth == 2 && strncmp(name->path, LAYER_LINK_DIR "/", sizeof(LAYER_LINK_DIR)) == 0;

		*ret_meaning = link && !has_mark(last) ? LAYER_AUFS_LINK : LAYER_AUFS;
		return strlen(last) > LAYER_NAME_MAX ? bad(ret_why, "its name is longer than 255 bytes") : 0;
	}
	rc = check_parents(name->path, ret_why);
	if (rc)
		return rc;
	*ret_meaning = LAYER_PLAIN;
	if (has_mark(last)) {
		char *target = last + strlen(MARK);

		if (strcmp(target, MARK ".opq") == 0) {
			*ret_meaning = LAYER_OPAQUE;
			last[last > name->path ? -1 : 0] = '\0';
			return 0;
		}
		if (has_mark(target)) { /* a whiteout of a whiteout: aufs's own files; none can exist below */
			*ret_meaning = LAYER_AUFS;
			return 0;
		}
		if (!*target || strcmp(target, ".") == 0 || strcmp(target, "..") == 0)
			return bad(ret_why, "the whiteout names nothing that it could hide");
		*ret_meaning = LAYER_WHITEOUT;
		memmove(last, target, strlen(target) + 1);
	}
	if (strlen(last) > LAYER_NAME_MAX)
		return bad(ret_why, "its name is longer than 255 bytes");
	return 0;
}
