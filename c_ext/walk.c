/* SPDX-License-Identifier: Apache-2.0 */
#include "walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sink.h"

static int need(struct walk *walk, size_t space)
{
	char *more;

	if (space <= walk->space)
		return 0;
	more = realloc(walk->todo, space);
	if (!more)
		return -ENOMEM;
	walk->todo = more;
	walk->space = space;
	return 0;
}

int walk_begin(struct walk *walk, const char *path, size_t size)
{
	int rc = need(walk, size + 1);

	if (rc)
		return rc;
	memcpy(walk->todo, path, size);
	walk->todo[size] = '\0';
	walk->at = 0;
	walk->links = walk->steps = 0;
	return 0;
}

int walk_next(struct walk *walk, char ret_name[NAME_MAX + 1], size_t *ret_size)
{
	for (;;) {
		const char *start;
		size_t length;

		walk->at += strspn(walk->todo + walk->at, "/");
		start = walk->todo + walk->at;
		length = strcspn(start, "/");
		if (!length)
			return WALK_END;
		if (length > NAME_MAX)
			return -ENAMETOOLONG;
		if (++walk->steps > SINK_STEPS_MAX)
			return -ELOOP;
		walk->at += length;
		if (length == 1 && start[0] == '.')
			continue;
		if (length == 2 && start[0] == '.' && start[1] == '.')
			return WALK_UP;
		memcpy(ret_name, start, length);
		ret_name[length] = '\0';
		*ret_size = length;
		return WALK_NAME;
	}
}

int walk_link(struct walk *walk, const char *target, size_t size)
{
	size_t rest = strlen(walk->todo + walk->at);
	int rc;

	if (++walk->links > SINK_LINKS_MAX)
		return -ELOOP;
	rc = need(walk, size + rest + 2);
	if (rc)
		return rc;
	memmove(walk->todo + size + 1, walk->todo + walk->at, rest + 1);
	memcpy(walk->todo, target, size);
	walk->todo[size] = '/';
	walk->at = 0;
	return 0;
}

void walk_free(struct walk *walk)
{
	free(walk->todo);
	walk->todo = NULL;
	walk->space = 0;
}
