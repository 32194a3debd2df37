/* SPDX-License-Identifier: Apache-2.0
 *
 * A path that is being resolved as a process would after chroot: name by name, with the targets of symbolic links put
 * before what is left. What the names lead to is the sink's business (tree_walk.c, erofs_walk.c). */
#ifndef FAIRLEAD_WALK_H
#define FAIRLEAD_WALK_H

#include <limits.h>
#include <stddef.h>

/* Zeroed at first; the memory is kept from path to path. */
struct walk {
	char *todo; /* what is left starts at at */
	size_t space, at;
	int links, steps;
};

enum walk_step { WALK_END, WALK_NAME, WALK_UP };

/* Start with the first size bytes of path; 0 or -ENOMEM. */
int walk_begin(struct walk *walk, const char *path, size_t size);

/* The next name, "." left out: an enum walk_step, or -ENAMETOOLONG, or -ELOOP after too many. ret_name is filled for
 * WALK_NAME only. */
int walk_next(struct walk *walk, char ret_name[NAME_MAX + 1], size_t *ret_size);

/* Go on with a link's target, from where the link stands or, if it is absolute, from the root. 0, -ENOMEM, or -ELOOP after
 * too many. */
int walk_link(struct walk *walk, const char *target, size_t size);

void walk_free(struct walk *walk);

#endif
