/* SPDX-License-Identifier: Apache-2.0 */
#include "tar.h"

#include <stdlib.h>
#include <string.h>

/* What the next bytes are. */
enum state { AT_HEADER, IN_META, IN_MAP_BLOCKS, IN_MAP_TEXT, IN_DATA, IN_PADDING, AT_END };

struct input {
	const unsigned char *p;
	size_t size;
};

/* GNU's sparse header: four pairs, then whether blocks of 21 more pairs follow, then the size with the holes. */
enum { GNU_PAIRS = 386, GNU_MORE = 482, GNU_REAL_SIZE = 483, GNU_BLOCK_PAIRS = 21, GNU_BLOCK_MORE = 504 };

void tar_start(struct tar *tar)
{
	tar_free(tar);
	tar->state = AT_HEADER;
	tar->have = 0;
	tar->zeros = 0;
	tar->why = "";
	tar->header.path[0] = '\0';
	tar->name = tar->header.path;
}

void tar_free(struct tar *tar)
{
	free(tar->meta);
	tar->meta = NULL;
	tar_extras_clear(&tar->extras);
	tar_map_clear(&tar->map);
}

static void consume(struct input *in, size_t size)
{
	in->p += size;
	in->size -= size;
}

/* A whole block, from the input itself where it lies there in one piece; NULL when more input is needed. */
static const unsigned char *take_block(struct tar *tar, struct input *in)
{
	const unsigned char *block = in->p;
	size_t size = TAR_BLOCK - tar->have;

	if (!tar->have && in->size >= TAR_BLOCK) {
		consume(in, TAR_BLOCK);
		return block;
	}
	if (size > in->size)
		size = in->size;
	if (size)
		memcpy(tar->block + tar->have, in->p, size);
	consume(in, size);
	tar->have += size;
	if (tar->have < TAR_BLOCK)
		return NULL;
	tar->have = 0;
	return tar->block;
}

/* An extended header describes the entry that follows it, and is no entry. */
static bool is_extended(char type)
{
	return type == 'x' || type == 'X' /* Solaris */ || type == 'g' || type == 'L' || type == 'K';
}

static int begin_meta(struct tar *tar)
{
	if (tar->header.size > tar->meta_bytes)
		return tar_bad(&tar->why, "its extended header is larger than the limit");
	tar->meta_type = tar->header.type;
	tar->meta_size = (size_t)tar->header.size;
	tar->meta_have = 0;
	tar->meta = malloc(tar->meta_size + 1);
	if (!tar->meta)
		return -ENOMEM;
	tar->padding = -tar->header.size % TAR_BLOCK;
	tar->state = IN_META;
	return 0;
}

/* Keep the body: its strings are used in place until the entry that follows is through. */
static int end_meta(struct tar *tar)
{
	struct tar_extras *extras = &tar->extras;
	char *body = tar->meta;

	tar->meta = NULL;
	body[tar->meta_size] = '\0';
	tar->state = IN_PADDING;
	switch (tar->meta_type) {
	case 'L':
		free(extras->long_path);
		extras->long_path = body;
		return 0;
	case 'K':
		free(extras->long_link);
		extras->long_link = body;
		return 0;
	case 'g':
		free(body); /* defaults for all entries: no image writer uses them for what we read */
		return 0;
	default:
		if (extras->records) {
			free(body);
			return tar_bad(&tar->why, "it has two extended headers");
		}
		extras->records = body;
		return tar_pax_parse(tar, body, tar->meta_size);
	}
}

static int take_meta(struct tar *tar, struct input *in)
{
	size_t size = tar->meta_size - tar->meta_have;

	if (size > in->size)
		size = in->size;
	if (size)
		memcpy(tar->meta + tar->meta_have, in->p, size);
	consume(in, size);
	tar->meta_have += size;
	return tar->meta_have == tar->meta_size ? end_meta(tar) : 0;
}

static int set_type(struct tar *tar)
{
	/* '7' is contiguous, a hint to file systems that nobody wrote; 'S' is GNU's sparse. */
	static const struct {
		char letter;
		enum sink_type type;
	} types[] = {
		{ '0', SINK_FILE }, { '7', SINK_FILE }, { 'S', SINK_FILE },  { '1', SINK_LINK }, { '2', SINK_SYMLINK },
		{ '3', SINK_CHAR }, { '4', SINK_BLOCK }, { '5', SINK_DIR }, { '6', SINK_FIFO },
	};
	const char *path = tar->entry.path;

	if (tar->header.type == '\0') { /* v7 has no type for directories, only the slash */
		tar->entry.type = *path && path[strlen(path) - 1] == '/' ? SINK_DIR : SINK_FILE;
		return 0;
	}
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		if (types[i].letter == tar->header.type) {
			tar->entry.type = types[i].type;
			return 0;
		}
	}
	return tar_bad(&tar->why, "its type is unknown");
}

static const char *first_of(const char *a, const char *b, const char *c)
{
	return a ? a : b ? b : c;
}

/* Put header and extended headers together. Bodies of links, directories and devices do not exist, whatever their
 * size field says: writers have put all sorts of numbers there, and every reader ignores them. */
static int build_entry(struct tar *tar)
{
	const struct tar_header *header = &tar->header;
	const struct tar_extras *extras = &tar->extras;
	struct sink_entry *entry = &tar->entry;
	int rc;

	*entry = (struct sink_entry){
		.path = first_of(extras->path, extras->long_path, header->path),
		.link = first_of(extras->link, extras->long_link, header->link),
		.mode = header->mode,
		.uid = extras->has_uid ? extras->uid : header->uid,
		.gid = extras->has_gid ? extras->gid : header->gid,
		.major = header->major,
		.minor = header->minor,
		.mtime_s = extras->has_mtime ? extras->mtime_s : header->mtime_s,
		.mtime_ns = extras->has_mtime ? extras->mtime_ns : 0,
		.xattrs = extras->xattrs,
		.xattr_count = extras->xattr_count,
	};
	tar->name = entry->path;
	rc = set_type(tar);
	if (rc)
		return rc;
	tar->offset = 0;
	tar->region = 0;
	tar->region_done = 0;
	tar->stored = 0;
	tar->sparse = false;
	if (entry->type == SINK_FILE) {
		tar->stored = extras->has_size ? extras->size : header->size;
		tar->sparse = header->type == 'S' || extras->sparse;
		entry->size = tar->stored;
	}
	tar->padding = tar->padding_due = -tar->stored % TAR_BLOCK;
	return 0;
}

/* The map is whole: hand the entry out. */
static int announce(struct tar *tar, struct tar_event *ret_event)
{
	if (tar->sparse) {
		int rc = tar_map_check(tar, tar->stored, tar->entry.size);

		if (rc)
			return rc;
	}
	tar->state = IN_DATA;
	*ret_event = (struct tar_event){ .type = TAR_ENTRY, .entry = &tar->entry };
	return 1;
}

static int begin_sparse(struct tar *tar, const unsigned char *block, struct tar_event *ret_event)
{
	struct tar_extras *extras = &tar->extras;
	int64_t real_size;
	int rc;

	if (extras->sparse) {
		if (!extras->has_real_size)
			return tar_bad(&tar->why, "its sparse map has no file size");
		if (extras->sparse_name)
			tar->entry.path = tar->name = extras->sparse_name;
		tar->entry.size = extras->real_size;
		if (extras->sparse_major == 0)
			return announce(tar, ret_event);
		if (extras->sparse_major != 1 || extras->sparse_minor != 0)
			return tar_bad(&tar->why, "its sparse format is unknown");
		tar->map_value = tar->map_left = 0;
		tar->map_counted = tar->map_digit = false;
		tar->state = IN_MAP_TEXT;
		return 0;
	}
	if (tar_number(block + GNU_REAL_SIZE, 12, &real_size) < 0 || real_size < 0)
		return tar_bad(&tar->why, "its size is negative, too large or malformed");
	tar->entry.size = (uint64_t)real_size;
	rc = tar_map_gnu(tar, block + GNU_PAIRS, 4);
	if (rc)
		return rc;
	if (!block[GNU_MORE])
		return announce(tar, ret_event);
	tar->state = IN_MAP_BLOCKS;
	return 0;
}

static int take_header(struct tar *tar, struct input *in, struct tar_event *ret_event)
{
	const unsigned char *block = take_block(tar, in);
	int rc;

	if (!block)
		return 0;
	if (tar_block_is_zero(block)) {
		if (tar_extras_pending(&tar->extras))
			return tar_bad(&tar->why, "an extended header stands without its entry");
		if (++tar->zeros == 2)
			tar->state = AT_END;
		return 0;
	}
	if (tar->zeros)
		return tar_bad(&tar->why, "a block of zeros stands amid the entries");
	tar->name = tar->header.path;
	rc = tar_header_decode(block, &tar->header, &tar->why);
	if (rc)
		return rc;
	if (is_extended(tar->header.type))
		return begin_meta(tar);
	rc = build_entry(tar);
	if (rc)
		return rc;
	return tar->sparse ? begin_sparse(tar, block, ret_event) : announce(tar, ret_event);
}

static int take_map(struct tar *tar, struct input *in, struct tar_event *ret_event)
{
	const unsigned char *block;
	bool done = false;
	int rc;

	if (tar->state == IN_MAP_TEXT && tar->stored < TAR_BLOCK)
		return tar_bad(&tar->why, "its sparse map is malformed");
	block = take_block(tar, in);
	if (!block)
		return 0;
	if (tar->state == IN_MAP_TEXT) {
		tar->stored -= TAR_BLOCK;
		rc = tar_map_text(tar, block, TAR_BLOCK, &done);
	} else {
		rc = tar_map_gnu(tar, block, GNU_BLOCK_PAIRS);
		done = !block[GNU_BLOCK_MORE];
	}
	if (rc)
		return rc;
	return done ? announce(tar, ret_event) : 0;
}

static int take_data(struct tar *tar, struct input *in, struct tar_event *ret_event)
{
	uint64_t size = tar->stored;

	if (!tar->stored) {
		tar->state = IN_PADDING;
		*ret_event = (struct tar_event){ .type = TAR_ENTRY_END };
		return 1;
	}
	if (tar->sparse) {
		const struct tar_region *region = &tar->map.regions[tar->region];

		/* The map's sizes add up to what is stored, so a region with something left exists. */
		while (region->size == tar->region_done) {
			region = &tar->map.regions[++tar->region];
			tar->region_done = 0;
		}
		tar->offset = region->offset + tar->region_done;
		size = region->size - tar->region_done;
	}
	if (size > in->size)
		size = in->size;
	if (!size)
		return 0;
	*ret_event = (struct tar_event){ .type = TAR_DATA, .offset = tar->offset, .data = in->p, .size = (size_t)size };
	consume(in, (size_t)size);
	tar->offset += size;
	tar->region_done += size;
	tar->stored -= size;
	return 1;
}

static int take_padding(struct tar *tar, struct input *in)
{
	size_t size = tar->padding < in->size ? (size_t)tar->padding : in->size;

	consume(in, size);
	tar->padding -= size;
	if (tar->padding)
		return 0;
	tar->state = AT_HEADER;
	if (!is_extended(tar->header.type)) {
		tar->name = tar->header.path;
		tar_extras_clear(&tar->extras);
		tar_map_clear(&tar->map);
	}
	return 0;
}

int tar_next(struct tar *tar, const unsigned char **data, size_t *size, struct tar_event *ret_event)
{
	struct input in = { *data, *size };
	int rc = 0;

	*ret_event = (struct tar_event){ .type = TAR_MORE };
	/* Bodies of no bytes and padding of none need no input to be passed. */
	while (!rc && (in.size || (tar->state == IN_DATA && !tar->stored))) {
		switch ((enum state)tar->state) {
		case AT_HEADER:
			rc = take_header(tar, &in, ret_event);
			break;
		case IN_META:
			rc = take_meta(tar, &in);
			break;
		case IN_MAP_BLOCKS:
		case IN_MAP_TEXT:
			rc = take_map(tar, &in, ret_event);
			break;
		case IN_DATA:
			rc = take_data(tar, &in, ret_event);
			break;
		case IN_PADDING:
			rc = take_padding(tar, &in);
			break;
		case AT_END: /* whatever follows the end belongs to nobody */
			consume(&in, in.size);
			*ret_event = (struct tar_event){ .type = TAR_EOF };
			break;
		}
	}
	*data = in.p;
	*size = in.size;
	return rc < 0 ? rc : 0;
}

int tar_finish(struct tar *tar)
{
	/* A writer that stops after the last byte of data, without padding, is understood by other readers too. */
	if (tar->state == IN_PADDING && !is_extended(tar->header.type) && tar->padding == tar->padding_due)
		return 0;
	if (tar->state != AT_END && (tar->state != AT_HEADER || tar->have))
		return tar_bad(&tar->why, "the archive is cut short here");
	if (tar->state == AT_HEADER && tar_extras_pending(&tar->extras))
		return tar_bad(&tar->why, "an extended header stands without its entry");
	return 0;
}
