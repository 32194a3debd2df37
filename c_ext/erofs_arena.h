/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory that is a file: pieces of it never move, and what has not been used for a while leaves our memory. All of it
 * goes at once. Space is allocated in the file before it is mapped, so that a full disk is an error and not a signal. */
#ifndef FAIRLEAD_EROFS_ARENA_H
#define FAIRLEAD_EROFS_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The unfinished chunk of one kind of things: those that are used together shall lie together. */
struct erofs_stream {
	char *at;
	size_t left;
};

struct erofs_map {
	void *base;
	size_t size;
	bool stays;
};

struct erofs_arena {
	int fd;
	uint64_t end; /* of the file */
	struct erofs_map *maps;
	size_t count, space;
	unsigned int breaths;
	long mapped; /* by this thread, ever, until it was emptied last */
};

enum { EROFS_ARENA_CHUNK = 2 << 20 };

/* Zeroed memory, aligned to 8 bytes; at most EROFS_ARENA_CHUNK. NULL with *ret_rc set. */
void *erofs_arena_take(struct erofs_arena *arena, struct erofs_stream *stream, size_t size, int *ret_rc);

/* Give back the end of the piece taken last from this stream: used bytes of it stay. */
void erofs_arena_trim(struct erofs_stream *stream, void *piece, size_t size, size_t used);

/* Zeroed memory of any size, in a mapping of its own. It stays in our memory unless it is very large: meant for what is
 * used in no order. */
void *erofs_arena_map(struct erofs_arena *arena, size_t size, int *ret_rc);
void erofs_arena_unmap(struct erofs_arena *arena, void *base);

/* To be called once for each thing that is made or looked at. */
void erofs_arena_breathe(struct erofs_arena *arena);

void erofs_arena_free(struct erofs_arena *arena);

#endif
