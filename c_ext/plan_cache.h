/* SPDX-License-Identifier: Apache-2.0
 *
 * Finds a plan that this user's engine made before on this node: one file per key in a directory that belongs to the
 * user and that nobody else may enter. Whatever is odd about directory, file or content means that there is no plan:
 * the engine then makes one, and has the right words if something is wrong. */
#ifndef FAIRLEAD_PLAN_CACHE_H
#define FAIRLEAD_PLAN_CACHE_H

#include <stddef.h>

#define PLAN_DIRECTORY_SIZE 64
#define PLAN_MAX_HOLDS 4

struct plan {
	void *block; /* the launch block, expanded */
	size_t block_size;
	void *file; /* the entry as it was read: image and the notes point into it */
	const void *entry_block;
	size_t entry_block_size;
	const char *image; /* name in the shared store of the image whose mounts the block's root wants, or NULL */
	const char *injection; /* name of the injection whose mount comes after those, or NULL */
	const char *upper; /* the size to ask the broker for, where the block's last mount is one to write to, or NULL */
	const char *same; /* what must be the same on all nodes of a step, or NULL */
	int holds[PLAN_MAX_HOLDS]; /* shared flocks on what must not be removed before the container stands */
	unsigned int hold_count;
};

/* Where the calling user's plans are. */
void plan_cache_directory(char ret[PLAN_DIRECTORY_SIZE]);

/* Find the plan for a key, check it against the node and the environment ("NAME=VALUE" strings and NULL). 0, or -errno
 * with nothing to release: -ENOENT there is none; an entry that is damaged or stale is removed. */
int plan_cache_find(const char *directory, const void *key, size_t key_size, char *const *environment,
		    struct plan *ret_plan);

/* Forget the plan for a key: it did not work. */
void plan_cache_forget(const char *directory, const void *key, size_t key_size);

/* Write the plan's lines for the user to a descriptor, as the engine would have. */
void plan_cache_tell(const struct plan *plan, int fd);

/* Free what plan_cache_find() gave, and let go of the holds. */
void plan_cache_release(struct plan *plan);

#endif
