/* SPDX-License-Identifier: Apache-2.0
 *
 * Mounts that are attached nowhere yet, each made of one record of the launch block; a descriptor or -errno, with a report
 * where there is one. Every mount is nosuid, and nodev unless it is a device or the record keeps devices usable. */
#ifndef FAIRLEAD_DETACHED_H
#define FAIRLEAD_DETACHED_H

#include "block.h"
#include "report.h"

/* A copy of the mount tree at the source of an OP_BIND. -ENOENT without a report: it is gone and optional. */
int detached_source(const struct block_record *record, struct report *report);

/* The device of an OP_DEVICE: only one of the expected kind and number. */
int detached_device(const struct block_record *record, struct report *report);

/* A new file system (tmpfs, or another without a device) with mount options as in OP_TMPFS; flags: BIND_*. */
int detached_new(const char *type, const char *options, uint32_t flags);

/* A read-only file with this content, kept in the stage under a number that no other has. */
int detached_file(int stage, unsigned int number, const char *content, struct report *report);

#endif
