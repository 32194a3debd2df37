/* SPDX-License-Identifier: Apache-2.0 */
#include "layer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "erofs.h"
#include "layer_name.h"
#include "tar.h"
#include "tree.h"

/* The widest range that ext4, XFS (bigtime) and btrfs hold alike, and where readers of 64-bit times are at ease. */
#define TIME_LIMIT_S (INT64_C(1) << 34)

struct layer {
	struct layer_limits limits;
	struct tar tar;
	struct sink *sink;
	bool is_image;
	struct sink_report report;
	struct sink_stats stats;
	uint64_t entries, bytes; /* of all layers */
	struct layer_name name, link;
	struct sink_xattr *xattrs; /* those that pass */
	size_t xattr_space;
	bool writing; /* the body of this entry goes to the sink */
	bool aufs_links;
};

static struct layer *new_layer(const struct layer_limits *limits)
{
	struct layer *layer = calloc(1, sizeof(*layer));

	if (!layer)
		return NULL;
	layer->limits = *limits;
	layer->tar.meta_bytes = limits->extended_bytes;
	layer->tar.region_limit = limits->sparse_regions;
	return layer;
}

/* rc is what came of opening the layer's sink. */
static int opened(struct layer *layer, int rc, struct layer **ret_layer)
{
	if (rc) {
		free(layer);
		return rc;
	}
	layer->sink->report = &layer->report;
	layer->sink->stats = &layer->stats;
	*ret_layer = layer;
	return 0;
}

int layer_open_tree(int rootfd, const struct layer_limits *limits, struct layer **ret_layer)
{
	struct layer *layer = new_layer(limits);

	return layer ? opened(layer, tree_open(rootfd, limits->depth, &layer->sink), ret_layer) : -ENOMEM;
}

int layer_open_image(int fd, int scratchfd, const struct layer_limits *limits, struct layer **ret_layer)
{
	struct layer *layer = new_layer(limits);

	if (!layer)
		return -ENOMEM;
	layer->is_image = true;
	return opened(layer, erofs_open(fd, scratchfd, limits->depth, &layer->sink), ret_layer);
}

int layer_set_lower(struct layer *layer, const int *fds, size_t count)
{
	if (layer->report.err)
		return -layer->report.err;
	return layer->is_image ? erofs_set_lower(layer->sink, fds, count) : -EINVAL;
}

const struct erofs_facts *layer_image_facts(const struct layer *layer)
{
	return layer->is_image ? erofs_facts(layer->sink) : NULL;
}

void layer_close(struct layer *layer)
{
	layer->sink->ops->close(layer->sink);
	tar_free(&layer->tar);
	free(layer->name.path);
	free(layer->link.path);
	free(layer->xattrs);
	free(layer);
}

const struct sink_report *layer_report(const struct layer *layer)
{
	return &layer->report;
}

const struct sink_stats *layer_stats(const struct layer *layer)
{
	return &layer->stats;
}

int layer_begin(struct layer *layer)
{
	if (layer->report.err)
		return -layer->report.err;
	memset(&layer->stats, 0, sizeof(layer->stats));
	tar_start(&layer->tar);
	layer->writing = false;
	layer->aufs_links = false;
	return layer->sink->ops->begin_layer(layer->sink);
}

static int keep_xattrs(struct layer *layer, struct sink_entry *entry)
{
	size_t kept = 0;

	if (layer->xattr_space < entry->xattr_count) {
		struct sink_xattr *more = reallocarray(layer->xattrs, entry->xattr_count, sizeof(*more));

		if (!more)
			return sink_failed(&layer->report, -ENOMEM, "read");
		layer->xattrs = more;
		layer->xattr_space = entry->xattr_count;
	}
	for (size_t i = 0; i < entry->xattr_count; i++) {
		const char *name = entry->xattrs[i].name;

		if (strncmp(name, "user.", 5) != 0 || !name[5] || strlen(name) > LAYER_NAME_MAX)
			continue;
		if (strncmp(name, "user.overlay.", 13) == 0)
			continue;
		layer->xattrs[kept++] = entry->xattrs[i];
	}
	entry->xattrs = layer->xattrs;
	entry->xattr_count = kept;
	return 0;
}

static void clamp_time(struct sink_entry *entry)
{
	if (entry->mtime_s >= TIME_LIMIT_S || entry->mtime_s < -TIME_LIMIT_S) {
		entry->mtime_s = entry->mtime_s < 0 ? -TIME_LIMIT_S : TIME_LIMIT_S;
		entry->mtime_ns = 0;
	}
}

static int clean_link(struct layer *layer, struct sink_entry *entry)
{
	const char *why = "";
	int rc;

	if (entry->type == SINK_SYMLINK)
		return *entry->link ? 0 : sink_refuse(&layer->report, "the symbolic link is empty");
	if (entry->type != SINK_LINK)
		return 0;
	if (!*entry->link)
		return sink_refuse(&layer->report, "the hard link names no file");
	rc = layer_name_clean(&layer->link, entry->link, &why);
	if (rc)
		return rc == -EBADMSG ? sink_refuse(&layer->report, why) : sink_failed(&layer->report, rc, "read");
	if (layer->link.depth > layer->limits.depth)
		return sink_refuse(&layer->report, "the hard link's target lies too deep");
	if (layer->link.clamped)
		sink_warn(&layer->stats, SINK_WARN_CLAMPED, entry->link);
	entry->link = layer->link.path;
	return 0;
}

static int count(struct layer *layer, const struct sink_entry *entry)
{
	if (++layer->entries > layer->limits.entries)
		return sink_refuse(&layer->report, "the image holds more entries than the limit");
	if (entry->size > layer->limits.bytes - layer->bytes)
		return sink_refuse(&layer->report, "the image's files exceed the limit of bytes");
	layer->bytes += entry->size;
	layer->stats.entries++;
	layer->stats.bytes += entry->size;
	return 0;
}

static int plain_entry(struct layer *layer, struct sink_entry *entry)
{
	struct sink *sink = layer->sink;
	int rc;

	if (!*entry->path && entry->type != SINK_DIR)
		return sink_refuse(&layer->report, "the root is not a directory");
	if (entry->type == SINK_CHAR && entry->major == 0 && entry->minor == 0)
		return sink->ops->whiteout(sink, entry->path);
	if (entry->type == SINK_CHAR || entry->type == SINK_BLOCK) {
		/* What it replaces must not show through in its stead. */
		layer->stats.skipped_devices++;
		return sink->ops->drop(sink, entry->path);
	}
	rc = clean_link(layer, entry);
	if (rc)
		return rc;
	entry->mode &= ~06000U;
	clamp_time(entry);
	rc = keep_xattrs(layer, entry);
	if (rc)
		return rc;
	layer->writing = entry->type == SINK_FILE;
	return sink->ops->entry(sink, entry);
}

static int on_entry(struct layer *layer, const struct sink_entry *given)
{
	struct sink_entry entry = *given;
	enum layer_meaning meaning;
	const char *why = "";
	int rc;

	layer->writing = false;
	rc = count(layer, &entry);
	if (rc)
		return rc;
	rc = layer_name_clean(&layer->name, entry.path, &why);
	if (!rc)
		rc = layer_name_classify(&layer->name, &meaning, &why);
	if (rc)
		return rc == -EBADMSG ? sink_refuse(&layer->report, why) : sink_failed(&layer->report, rc, "read");
	if (layer->name.depth > layer->limits.depth)
		return sink_refuse(&layer->report, "it lies deeper than the limit");
	if (layer->name.clamped)
		sink_warn(&layer->stats, SINK_WARN_CLAMPED, entry.path);
	if ((meaning == LAYER_WHITEOUT || meaning == LAYER_OPAQUE) && entry.size)
		sink_warn(&layer->stats, SINK_WARN_WHITEOUT_CONTENT, entry.path);
	entry.path = layer->name.path;
	switch (meaning) {
	case LAYER_WHITEOUT:
		return layer->sink->ops->whiteout(layer->sink, entry.path);
	case LAYER_OPAQUE:
		return layer->sink->ops->opaque(layer->sink, entry.path);
	case LAYER_AUFS:
		return 0;
	case LAYER_AUFS_LINK:
		if (entry.type != SINK_FILE)
			return 0;
		layer->aufs_links = true;
		break;
	case LAYER_PLAIN:
		break;
	}
	return plain_entry(layer, &entry);
}

static int on_event(struct layer *layer, const struct tar_event *event)
{
	struct sink *sink = layer->sink;

	switch (event->type) {
	case TAR_ENTRY:
		return on_entry(layer, event->entry);
	case TAR_DATA:
		return layer->writing ? sink->ops->data(sink, event->offset, event->data, event->size) : 0;
	case TAR_ENTRY_END:
		return layer->writing ? sink->ops->end_entry(sink) : 0;
	case TAR_MORE:
	case TAR_EOF:
		break;
	}
	return 0;
}

/* Name the entry at fault as the archive has it. */
static void name_fault(struct layer *layer)
{
	snprintf(layer->report.entry, sizeof(layer->report.entry), "%s", layer->tar.name);
}

int layer_feed(struct layer *layer, const void *data, size_t size)
{
	const unsigned char *p = data;
	struct tar_event event;
	int rc;

	if (layer->report.err)
		return -layer->report.err;
	do {
		rc = tar_next(&layer->tar, &p, &size, &event);
		if (rc == -EBADMSG)
			rc = sink_refuse(&layer->report, layer->tar.why);
		else if (rc)
			rc = sink_failed(&layer->report, rc, "read");
		else
			rc = on_event(layer, &event);
	} while (!rc && event.type != TAR_MORE && event.type != TAR_EOF);
	if (rc)
		name_fault(layer);
	return rc;
}

int layer_end(struct layer *layer)
{
	int rc;

	if (layer->report.err)
		return -layer->report.err;
	if (tar_finish(&layer->tar) < 0) {
		sink_refuse(&layer->report, layer->tar.why);
		name_fault(layer);
		return -EBADMSG;
	}
	if (layer->aufs_links) {
		rc = layer->sink->ops->drop(layer->sink, LAYER_LINK_DIR);
		if (rc)
			return rc;
	}
	return layer->sink->ops->end_layer(layer->sink);
}
