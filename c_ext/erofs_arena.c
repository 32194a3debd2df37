/* SPDX-License-Identifier: Apache-2.0 */
#include "erofs_arena.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
	SMALL = 16 << 20,     /* not worth the trouble */
	STAYS_MAX = 32 << 20, /* a table of two million names */
	BREATHS = 64,	      /* between two looks at the counts of faults */
	BUDGET = 16 << 20,
	AROUND = 64 << 10,    /* what the kernel may map for a fault on what it has; one page for what is new */
};

/* Layers are made in parallel and share one budget. Written by a thread at the ends of its layer, read by all. */
static atomic_uint arenas;

static uint64_t share_of(uint64_t whole)
{
	unsigned int count = atomic_load(&arenas);

	return count ? whole / count : whole;
}

static void *map(struct erofs_arena *arena, size_t size, bool stays, int *ret_rc)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	void *base;
	int rc;

	size = (size + page - 1) / page * page;
	if (arena->count == arena->space) {
		size_t space = arena->space ? 2 * arena->space : 16;
		struct erofs_map *maps = reallocarray(arena->maps, space, sizeof(*maps));

		if (!maps) {
			*ret_rc = -ENOMEM;
			return NULL;
		}
		if (!arena->space)
			atomic_fetch_add(&arenas, 1);
		arena->maps = maps;
		arena->space = space;
	}
	do {
		rc = posix_fallocate(arena->fd, (off_t)arena->end, (off_t)size);
	} while (rc == EINTR);
	if (rc) {
		*ret_rc = -rc;
		return NULL;
	}
	base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, arena->fd, (off_t)arena->end);
	if (base == MAP_FAILED) {
		*ret_rc = -errno;
		return NULL;
	}
	/* Without it ext4 puts 2 MiB under one entry of the page table, and a look at one byte maps all of that. */
	madvise(base, size, MADV_RANDOM);
	arena->end += size;
	arena->maps[arena->count++] = (struct erofs_map){ base, size, stays };
	return base;
}

void *erofs_arena_map(struct erofs_arena *arena, size_t size, int *ret_rc)
{
	return map(arena, size, size <= STAYS_MAX, ret_rc);
}

void erofs_arena_unmap(struct erofs_arena *arena, void *base)
{
	for (size_t i = 0; i < arena->count; i++) {
		if (arena->maps[i].base != base)
			continue;
		munmap(base, arena->maps[i].size);
		arena->maps[i] = arena->maps[--arena->count];
		return;
	}
}

void *erofs_arena_take(struct erofs_arena *arena, struct erofs_stream *stream, size_t size, int *ret_rc)
{
	char *piece;

	size = (size + 7) & ~(size_t)7;
	if (stream->left < size) {
		char *chunk = map(arena, EROFS_ARENA_CHUNK, false, ret_rc);

		if (!chunk)
			return NULL;
		stream->at = chunk;
		stream->left = EROFS_ARENA_CHUNK;
	}
	piece = stream->at;
	stream->at += size;
	stream->left -= size;
	return piece;
}

void erofs_arena_trim(struct erofs_stream *stream, void *piece, size_t size, size_t used)
{
	size = (size + 7) & ~(size_t)7;
	used = (used + 7) & ~(size_t)7;
	if ((char *)piece + size == stream->at) {
		memset((char *)piece + used, 0, size - used);
		stream->at -= size - used;
		stream->left += size - used;
	}
}

/* At most so much of the arena can be in our memory by now; from a thread's faults, as nothing tells the size itself
 * as quickly. Another thread may have taken over: its counts say nothing yet. */
static bool within_budget(struct erofs_arena *arena)
{
	struct rusage usage;
	long most;

	if (getrusage(RUSAGE_THREAD, &usage) < 0)
		return false;
	most = usage.ru_minflt * AROUND + usage.ru_majflt * 4096;
	if (most >= arena->mapped && (uint64_t)(most - arena->mapped) < share_of(BUDGET))
		return true;
	arena->mapped = most;
	return false;
}

void erofs_arena_breathe(struct erofs_arena *arena)
{
	if (++arena->breaths < BREATHS)
		return;
	arena->breaths = 0;
	if (arena->end <= share_of(SMALL) || within_budget(arena))
		return;
	/* The pages stay in the page cache, dirty ones too: the mapping is shared. */
	for (size_t i = 0; i < arena->count; i++) {
		if (!arena->maps[i].stays)
			madvise(arena->maps[i].base, arena->maps[i].size, MADV_DONTNEED);
	}
}

void erofs_arena_free(struct erofs_arena *arena)
{
	for (size_t i = 0; i < arena->count; i++)
		munmap(arena->maps[i].base, arena->maps[i].size);
	if (arena->space)
		atomic_fetch_sub(&arenas, 1);
	free(arena->maps);
	arena->maps = NULL;
	arena->count = arena->space = 0;
}
