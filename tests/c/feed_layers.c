/* SPDX-License-Identifier: Apache-2.0
 *
 * Feeds archives to the layer reader, for sanitizers and fuzzers. Works in the current directory, which must be empty.
 *
 *	stdin:   records of { uint32 piece, uint32 flags, uint32 size, size bytes }; piece 0: all at once
 *	         flags 1: the archive is the next layer of the tree, or stack of images, that stands; otherwise a new one
 *	         flags 2: it becomes an image, not part of a tree; flags 4: the bytes begin with a count and as many pairs
 *	         of offset and mask, uint32 all, by which the topmost image is damaged first; the rest is the archive
 *	         flags 8: of the stack of images an index is written, too, and thrown away
 *	stdout:  one line for each: "ok ENTRIES BYTES DEVICES", of an image also " SIZE CRC asked|alone", or
 *	         "refused|failed ERRNO ENTRY: DETAIL"
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

#include "../../c_ext/erofs_crc.h"
#include "../../c_ext/erofs_index.h"
#include "../../c_ext/layer.h"
#include "../../c_ext/tree.h"

enum { CONTINUES = 1, IMAGE = 2, DAMAGE = 4, INDEX = 8, IMAGES = 128 };

static const struct layer_limits limits = {
	.entries = 50000, .bytes = 1 << 24, .depth = 64, .extended_bytes = 1 << 20, .sparse_regions = 1 << 12,
};

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
	return rc;
}

static void print_safe(const char *text)
{
	for (; *text; text++)
		putchar(*text >= ' ' && *text < 127 ? *text : '?');
}

/* What distinguishes one image from another. */
static void describe_image(const struct layer *layer, int fd)
{
	const struct erofs_facts *facts = layer_image_facts(layer);
	struct stat st;
	unsigned char *bytes;

	if (fstat(fd, &st) < 0 || (uint64_t)st.st_size != facts->size)
		abort();
	bytes = malloc((size_t)st.st_size);
	/* No pread(2): tests make that one fail, for the reader of lower images. */
	if (!bytes || lseek(fd, 0, SEEK_SET) || read(fd, bytes, (size_t)st.st_size) != st.st_size)
		abort();
	printf(" %lu %x %s", facts->size, erofs_crc32c(bytes, (size_t)st.st_size), facts->asked ? "asked" : "alone");
	free(bytes);
}

static void answer(const struct layer *layer, int rc, int imagefd)
{
	const struct sink_report *report = layer_report(layer);
	const struct sink_stats *stats = layer_stats(layer);

	if (!rc) {
		printf("ok %lu %lu %lu", stats->entries, stats->bytes, stats->skipped_devices);
		if (imagefd >= 0)
			describe_image(layer, imagefd);
		putchar('\n');
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
	struct layer *layer;

	if (tree_remove(AT_FDCWD, "root") < 0 || mkdir("root", 0755) < 0)
		abort();
	*ret_rootfd = open("root", O_RDONLY | O_DIRECTORY);
	if (*ret_rootfd < 0 || layer_open_tree(*ret_rootfd, &limits, &layer) < 0)
		abort();
	return layer;
}

static int images[IMAGES];
static size_t image_count;

static void close_images(void)
{
	while (image_count)
		close(images[--image_count]);
}

static unsigned int word(const unsigned char *data, size_t number)
{
	unsigned int value;

	memcpy(&value, data + number * sizeof(value), sizeof(value));
	return value;
}

/* Returns how many bytes of data this took. */
static size_t damage(const unsigned char *data)
{
	unsigned int count = word(data, 0);
	struct stat st;

	for (unsigned int i = 0; i < count && image_count; i++) {
		int fd = images[image_count - 1];
		unsigned char byte;
		off_t at;

		if (fstat(fd, &st) < 0)
			abort();
		at = word(data, 1 + 2 * i) % st.st_size;
		if (pread(fd, &byte, 1, at) != 1)
			abort();
		byte ^= (unsigned char)word(data, 2 + 2 * i);
		if (pwrite(fd, &byte, 1, at) != 1)
			abort();
	}
	return (1 + 2 * (size_t)count) * sizeof(count);
}

/* What comes of it is for other tests to see; here it must only keep within its memory, whatever the images hold. */
static void make_index(void)
{
	int fd = open(".", O_TMPFILE | O_RDWR, 0600), scratch = open(".", O_TMPFILE | O_RDWR, 0600);
	struct erofs_facts facts;

	if (fd < 0 || scratch < 0)
		abort();
	erofs_index_write(fd, scratch, limits.depth, images, image_count, &facts);
	close(fd);
	close(scratch);
}

static void make_image(const unsigned char *data, size_t size, size_t piece)
{
	int fd = open(".", O_TMPFILE | O_RDWR, 0600), scratch = open(".", O_TMPFILE | O_RDWR, 0600), rc;
	struct layer *layer;

	if (fd < 0 || scratch < 0 || layer_open_image(fd, scratch, &limits, &layer) < 0)
		abort();
	rc = feed(layer, data, size, piece);
	if (!rc && layer_image_facts(layer)->asked)
		rc = layer_set_lower(layer, images, image_count);
	if (!rc)
		rc = layer_end(layer);
	answer(layer, rc, fd);
	layer_close(layer);
	close(scratch);
	if (rc || image_count == IMAGES)
		close(fd);
	else
		images[image_count++] = fd;
}

int main(void)
{
	struct layer *layer = NULL;
	unsigned int head[3];
	int rootfd = -1;

	while (fread(head, sizeof(head), 1, stdin) == 1) {
		size_t piece = head[0] ? head[0] : (size_t)head[2] + 1, skip = 0;
		unsigned char *data = malloc((size_t)head[2] + 1);

		if (!data || fread(data, 1, head[2], stdin) != head[2])
			abort();
		if (!(head[1] & CONTINUES)) {
			close_images();
			if (layer) {
				layer_close(layer);
				close(rootfd);
				layer = NULL;
			}
		}
		if (head[1] & DAMAGE)
			skip = damage(data);
		if (head[1] & IMAGE) {
			make_image(data + skip, head[2] - skip, piece);
			if (head[1] & INDEX)
				make_index();
		} else {
			int rc;

			if (!layer)
				layer = begin_tree(&rootfd);
			rc = feed(layer, data, head[2], piece);
			answer(layer, rc ? rc : layer_end(layer), -1);
		}
		free(data);
	}
	close_images();
	if (layer) {
		layer_close(layer);
		close(rootfd);
	}
	return tree_remove(AT_FDCWD, "root") < 0;
}
