/* SPDX-License-Identifier: Apache-2.0
 *
 * The launch block: what Python decided, in a flat form that C executes without parsing text.
 *
 *   header   magic "FAIRLD1\0" | u32 size of the whole block | u32 number of records
 *   record   u16 op | u16 number of strings | u32 flags | strings
 *   string   u32 length | bytes | NUL
 *
 * Example: BIND /scratch -> /data, read-only
 *   03 00 | 02 00 | 01 00 00 00 | 08 00 00 00 "/scratch" 00 | 05 00 00 00 "/data" 00
 *
 * Integers are in host order: a block never leaves the node. Written by engine/fairlead/run/block.py. Every length
 * is checked against the block's end, every string for its NUL and for having no other; a block that fails is
 * refused whole, before anything is done. */
#ifndef FAIRLEAD_BLOCK_H
#define FAIRLEAD_BLOCK_H

#include <stddef.h>
#include <stdint.h>

#define BLOCK_MAGIC "FAIRLD1"
#define BLOCK_MAX_SIZE (16u << 20)
#define BLOCK_MAX_STRINGS 512

enum block_op {
	/* compose.c, in the order in which they appear */
	OP_ROOT = 1,     /* lower directories, topmost first; ROOT_* */
	OP_TMPFS = 2,    /* target, mount options, and a file system's type where it is another of the kernel's own */
	OP_BIND = 3,     /* source, target */
	OP_DEVICE = 4,   /* source, target, and "block" for a block device; flags = major << 20 | minor, checked */
	OP_FILE = 5,     /* target, content: a generated read-only file */
	OP_SYMLINK = 6,  /* link's content, link's path; an existing path stays */
	OP_COMMAND = 7,  /* command, PATH: must be found and executable once the root stands */
	OP_UPPER = 8,    /* right after OP_ROOT: how much the container may write to its root, as tmpfs wants it; or, to write
			  * to a mount that came with the block, the size that the broker was asked for and "mount:N"; or, to
			  * keep it, an empty string, a directory of the user's, and the container's name; a fourth string:
			  * the directory's content is to be saved when the tasks have ended (enter.c) */

	OP_DIRECTORY = 9, /* made where the image lacks it: its own working directory */

	/* enter.c */
	OP_WORKDIR = 16,     /* path */
	OP_ENV_SET = 17,     /* name, value */
	OP_ENV_UNSET = 18,   /* name */
	OP_ARGUMENT = 19,    /* goes before the command: the image's entrypoint */
	OP_ENV_TASK = 20,    /* name, template of the task's own variables; left alone where one of them is missing */

	/* spank_shim/after.c */
	OP_AFTER = 21, /* what is to be run when the container has ended, for run/after.py */

	/* plan_entry.h: only in a cached plan; plan_expand() leaves them out of the launch block */
	OP_CHECK_FILE = 32,     /* path, what is known of it; CHECK_* */
	OP_CHECK_VARIABLE = 33, /* name, value: equal; name: absent, or with CHECK_PRESENT of any value */
	OP_CHECK_NAMES = 34,    /* prefix, names: these variables and no others have names that begin so */
	OP_CHECK_SAME = 35,     /* two templates with one meaning */
	OP_HOLD = 36,           /* directory, under a shared flock until the container stands */
	OP_IMAGE = 37,          /* name, in the shared store, of the image whose layers the root calls mount:N; name of the
				 * injection that comes after them, if there is one */
	OP_NOTE = 38,           /* a line that the user sees at every launch */
	OP_WORD = 39,           /* a word of the command */
	OP_SAME = 40,           /* what must be the same on all nodes of a step (run/same.py) */
};

enum block_flag {
	ROOT_READONLY = 1 << 0,
	ROOT_REMAP = 1 << 1, /* the user is uid 0 inside */
	ROOT_NET = 1 << 2,   /* namespaces of its own, beside user and mount */
	ROOT_IPC = 1 << 3,
	ROOT_UTS = 1 << 4,

	BIND_READONLY = 1 << 0,
	BIND_OPTIONAL = 1 << 1,  /* no error when the source does not exist */
	BIND_DEVICES = 1 << 2,   /* keep device nodes usable (below /dev only) */
	BIND_SHALLOW = 1 << 3,   /* without the mounts below the source */
	BIND_NOEXEC = 1 << 4,    /* as BIND_READONLY, of a tmpfs, too */
	BIND_PRIVATE = 1 << 5,   /* hears of no mount that the host makes below the source */
	BIND_UNBINDABLE = 1 << 6,
	BIND_PROPAGATE_ALL = 1 << 7, /* these two also for the mounts below the source */
	TARGET_STRICT = 1 << 8,  /* no component of the target may be a symbolic link */

	CHECK_KIND = 1 << 0,     /* absent, directory, own directory, ... instead of the file's identity */
	CHECK_NOFOLLOW = 1 << 1, /* of the symbolic link itself */
	CHECK_PRESENT = 1 << 2,

	/* In any record of a cached plan: ${NAME} in its strings stands for a variable of the task. */
	RECORD_TEMPLATE = 1 << 30,
};

struct block_record {
	uint16_t op;
	uint16_t count;
	uint32_t flags;
	const char *string[BLOCK_MAX_STRINGS];
};

struct block_cursor {
	const unsigned char *at;
	const unsigned char *end;
	uint32_t left;
};

/* Check the whole block and point the cursor at its first record; 0 or -EBADMSG. */
int block_open(struct block_cursor *ret_cursor, const void *data, size_t size);

/* The flags of the block's root, before it is built; 0 for what is no block with a root. */
uint32_t block_root_flags(const void *data, size_t size);

/* Read the next record: 1, 0 at the end. The strings point into the block. */
int block_next(struct block_cursor *cursor, struct block_record *ret_record);

#endif
