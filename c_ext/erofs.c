/* SPDX-License-Identifier: Apache-2.0 */
#include "erofs.h"
#include "erofs_image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "erofs_lower.h"

static struct erofs_image *image_of(struct sink *sink)
{
	return (struct erofs_image *)sink;
}

static int erofs_begin_layer(struct sink *sink)
{
	struct erofs_image *image = image_of(sink);
	struct stat st;
	int rc = 0;

	if (fstat(image->out.fd, &st) < 0)
		rc = -errno;
	else if (image->begun || !S_ISREG(st.st_mode) || st.st_size)
		rc = -EINVAL; /* one layer, one image, and gaps have to read as zeros */
	image->begun = true;
	if (!rc)
		rc = erofs_nodes_begin(image);
	if (!rc) /* the superblock's block comes last */
		rc = erofs_output_skip(&image->out, EROFS_BLOCK);
	return rc ? sink_failed(sink->report, rc, "begin") : 0;
}

static int apply(struct erofs_image *image, const struct erofs_step *step)
{
	static int (*const steps[])(struct erofs_image *, const struct erofs_step *) = {
		[EROFS_STEP_ENTRY] = erofs_apply_entry,	      [EROFS_STEP_LINK] = erofs_apply_link,
		[EROFS_STEP_WHITEOUT] = erofs_apply_whiteout, [EROFS_STEP_OPAQUE] = erofs_apply_opaque,
		[EROFS_STEP_DROP] = erofs_apply_drop,
	};

	erofs_arena_breathe(&image->arena);
	return steps[step->kind](image, step);
}

/* Put the step behind those that wait already. */
static int wait_for_lower(struct erofs_image *image, const struct erofs_step *given)
{
	struct erofs_step *step;
	int rc = 0;

	erofs_arena_breathe(&image->arena);
	step = erofs_body(image, given, sizeof(*given), &rc);
	if (step)
		step->path = erofs_body(image, given->path, strlen(given->path) + 1, &rc);
	if (step && given->link)
		step->link = erofs_body(image, given->link, strlen(given->link) + 1, &rc);
	if (rc)
		return sink_failed(image->sink.report, rc, "remember");
	*image->waiting_end = step;
	image->waiting_end = &step->next;
	return 0;
}

/* Apply the step now, or, once there has been a question, when the answer can be had: the order is the archive's. */
static int take(struct erofs_image *image, const struct erofs_step *step)
{
	int rc = EROFS_ASK;

	if (!image->waiting)
		rc = apply(image, step);
	return rc == EROFS_ASK ? wait_for_lower(image, step) : rc;
}

static int make_inode(struct erofs_image *image, const struct sink_entry *entry, struct erofs_inode **ret_inode)
{
	struct erofs_inode *inode;
	int rc = 0;

	inode = erofs_inode_new(image, entry->type, &rc);
	if (!inode)
		return rc;
	inode->mode = (uint16_t)(entry->mode & 07777);
	inode->mtime_s = entry->mtime_s;
	inode->mtime_ns = entry->mtime_ns;
	if (entry->type == SINK_FILE || entry->type == SINK_DIR)
		rc = erofs_xattrs_pack(image, inode, entry);
	else if (entry->type == SINK_SYMLINK)
		rc = erofs_link_target(image, inode, entry->link);
	*ret_inode = inode;
	return rc;
}

static int erofs_entry(struct sink *sink, const struct sink_entry *entry)
{
	struct erofs_step step = { .kind = EROFS_STEP_ENTRY, .path = entry->path };
	struct erofs_image *image = image_of(sink);
	int rc;

	if (entry->type == SINK_LINK) {
		step.kind = EROFS_STEP_LINK;
		step.link = entry->link;
		return take(image, &step);
	}
	rc = make_inode(image, entry, &step.inode);
	if (rc)
		return erofs_failed(image, rc, "create");
	rc = take(image, &step);
	if (rc || entry->type != SINK_FILE)
		return rc;
	/* Only now: a link that was found below, on the way, may have taken a block. */
	image->file = step.inode;
	return erofs_failed(image, erofs_file_begin(image, step.inode, entry->size), "create");
}

static int erofs_data(struct sink *sink, uint64_t offset, const void *data, size_t size)
{
	struct erofs_image *image = image_of(sink);
	int rc;

	rc = erofs_output_skip(&image->out, (uint64_t)image->file->block * EROFS_BLOCK + offset);
	if (!rc)
		rc = erofs_output_write(&image->out, data, size);
	return rc ? sink_failed(sink->report, rc, "write") : 0;
}

static int erofs_end_entry(struct sink *sink)
{
	struct erofs_image *image = image_of(sink);
	int rc = erofs_file_end(image, image->file);

	return rc ? sink_failed(sink->report, rc, "write") : 0;
}

static int take_marker(struct sink *sink, enum erofs_step_kind kind, const char *path)
{
	struct erofs_step step = { .kind = kind, .path = path };

	return take(image_of(sink), &step);
}

static int erofs_whiteout(struct sink *sink, const char *path)
{
	return take_marker(sink, EROFS_STEP_WHITEOUT, path);
}

static int erofs_opaque(struct sink *sink, const char *path)
{
	return take_marker(sink, EROFS_STEP_OPAQUE, path);
}

static int erofs_drop(struct sink *sink, const char *path)
{
	return take_marker(sink, EROFS_STEP_DROP, path);
}

static int erofs_end_layer(struct sink *sink)
{
	struct erofs_image *image = image_of(sink);
	int rc = 0;

	if (image->waiting && !image->lower)
		return sink_failed(sink->report, -EINVAL, "finish, without its lower layers,");
	for (const struct erofs_step *step = image->waiting; step && !rc; step = step->next) {
		rc = apply(image, step);
		if (rc)
			snprintf(sink->report->entry, sizeof(sink->report->entry), "%s", step->path);
	}
	if (rc)
		return rc;
	rc = erofs_layout(image);
	if (!rc)
		rc = erofs_emit(image);
	return rc ? sink_failed(sink->report, rc, "write") : 0;
}

static void erofs_close(struct sink *sink)
{
	struct erofs_image *image = image_of(sink);

	erofs_lower_close(image->lower);
	erofs_output_close(&image->out);
	erofs_arena_free(&image->arena);
	free(image->chunks);
	walk_free(&image->walk);
	free(image);
}

int erofs_set_lower(struct sink *sink, const int *fds, size_t count)
{
	struct erofs_image *image = image_of(sink);
	int rc = image->lower ? -EINVAL : erofs_lower_open(fds, count, &image->lower);

	return rc ? sink_failed(sink->report, rc, "read the lower layers of") : 0;
}

const struct erofs_facts *erofs_facts(const struct sink *sink)
{
	return &((const struct erofs_image *)sink)->facts;
}

int erofs_open(int fd, int scratchfd, uint32_t depth, struct sink **ret_sink)
{
	static const struct sink_ops ops = {
		.begin_layer = erofs_begin_layer,
		.entry = erofs_entry,
		.data = erofs_data,
		.end_entry = erofs_end_entry,
		.whiteout = erofs_whiteout,
		.opaque = erofs_opaque,
		.drop = erofs_drop,
		.end_layer = erofs_end_layer,
		.close = erofs_close,
	};
	struct erofs_image *image = calloc(1, sizeof(*image));
	int rc;

	if (!image)
		return -ENOMEM;
	rc = erofs_output_open(&image->out, fd);
	if (rc) {
		free(image);
		return rc;
	}
	image->sink.ops = &ops;
	image->arena.fd = scratchfd;
	image->depth_limit = depth;
	image->waiting_end = &image->waiting;
	*ret_sink = &image->sink;
	return 0;
}
