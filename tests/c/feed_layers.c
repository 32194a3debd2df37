/* SPDX-License-Identifier: Apache-2.0
 *
 * Feeds archives to the layer reader, for sanitizers and fuzzers. Works in the current directory, which must be empty.
 *
 *	stdin:   records of { uint32 piece, uint32 flags, uint32 size, size bytes }; piece 0: all at once
 *	         flags 1: the archive is the next layer of the tree that stands; otherwise a new tree is begun
 *	stdout:  one line for each: "ok ENTRIES BYTES DEVICES" or "refused|failed ERRNO ENTRY: DETAIL"
 *
 * Each piece is fed from a buffer of exactly its size, so that a read past the end is seen. */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../c_ext/layer.h"
#include "../../c_ext/tree.h"

static int feed(struct layer *layer, const unsigned char *data, size_t size, size_t piece)
{
	int rc = layer_begin(layer);

	for (size_t at = 0; at < size && !rc; at += piece) {
		size_t length = size - at < piece ? size - at : piece;
		unsigned char *copy = malloc(length);

		if (!copy)
			abort();
		memcpy(copy, data + at, length);
		rc = layer_feed(layer, copy, length);
		free(copy);
	}
	return rc ? rc : layer_end(layer);
}

static void print_safe(const char *text)
{
	for (; *text; text++)
		putchar(*text >= ' ' && *text < 127 ? *text : '?');
}

static void answer(const struct layer *layer, int rc)
{
	const struct sink_report *report = layer_report(layer);
	const struct sink_stats *stats = layer_stats(layer);

	if (!rc) {
		printf("ok %lu %lu %lu\n", stats->entries, stats->bytes, stats->skipped_devices);
	} else {
		printf("%s %d ", report->refused ? "refused" : "failed", report->err);
		print_safe(report->entry);
		printf(": ");
		print_safe(report->detail);
		putchar('\n');
	}
	fflush(stdout);
}

static struct layer *begin_tree(int *ret_rootfd)
{
	const struct layer_limits limits = {
		.entries = 50000, .bytes = 1 << 24, .depth = 64, .extended_bytes = 1 << 20, .sparse_regions = 1 << 12,
	};
	struct layer *layer;

	if (tree_remove(AT_FDCWD, "root") < 0 || mkdir("root", 0755) < 0)
		abort();
	*ret_rootfd = open("root", O_RDONLY | O_DIRECTORY);
	if (*ret_rootfd < 0 || layer_open_tree(*ret_rootfd, &limits, &layer) < 0)
		abort();
	return layer;
}

int main(void)
{
	struct layer *layer = NULL;
	unsigned int head[3];
	int rootfd = -1;

	while (fread(head, sizeof(head), 1, stdin) == 1) {
		unsigned char *data = malloc(head[2] + 1);

		if (!data || fread(data, 1, head[2], stdin) != head[2])
			abort();
		if (!(head[1] & 1) && layer) {
			layer_close(layer);
			close(rootfd);
			layer = NULL;
		}
		if (!layer)
			layer = begin_tree(&rootfd);
		answer(layer, feed(layer, data, head[2], head[0] ? head[0] : head[2] + 1));
		free(data);
	}
	if (layer) {
		layer_close(layer);
		close(rootfd);
	}
	return tree_remove(AT_FDCWD, "root") < 0;
}
