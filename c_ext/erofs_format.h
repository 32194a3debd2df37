/* SPDX-License-Identifier: Apache-2.0
 *
 * EROFS on disk: the part of the format that this sink writes and its reader takes back. All numbers little-endian.
 *
 * An image is: one block with the superblock; the data of files, each from a block of its own; the full blocks of large
 * directories; the metadata area. There an inode's number (nid) is its offset in units of 32 bytes, and an inode is 64
 * bytes, then its xattrs, then, if its layout is inline, the tail of its data, which must not cross a block.
 *
 * A directory is a sequence of blocks, each on its own: an array of dirents, then the names that they point to. The
 * names are sorted by their bytes, "." and ".." among them, through all blocks, so that the kernel can search both.
 *
 * An index (erofs_index.h) has a device table behind the superblock's block. Its files' data lie in other images; the
 * blocks of all follow each other in one range of addresses, the index's own first, as the table says.
 *
 * Source: Linux fs/erofs/erofs_fs.h and namei.c, dir.c, xattr.c (5.4 to 6.18), data.c, erofs_map_dev() (device tables:
 * 5.16); Documentation/filesystems/erofs.rst. */
#ifndef FAIRLEAD_EROFS_FORMAT_H
#define FAIRLEAD_EROFS_FORMAT_H

#include <stdint.h>

#define EROFS_MAGIC UINT32_C(0xe0f5e1e2)

enum {
	EROFS_BLOCK_BITS = 12,
	EROFS_BLOCK = 1 << EROFS_BLOCK_BITS,
	EROFS_SUPER_OFFSET = 1024,
	EROFS_NID_BITS = 5,

	EROFS_COMPAT_CHECKSUM = 1 << 0, /* the superblock's checksum counts (5.5) */
	EROFS_COMPAT_MTIME = 1 << 1,	/* times are those of the last change of content (5.12) */

	EROFS_INCOMPAT_DEVICES = 1 << 3, /* there is a device table */

	EROFS_EXTENDED = 1,	/* i_format, bit 0: an inode of 64 bytes */
	EROFS_PLAIN = 0 << 1,	/* i_format, bits 1 to 3: all data in blocks of its own */
	EROFS_INLINE = 2 << 1,	/* its last, partial block stands behind the inode */

	EROFS_XATTR_USER = 1,	/* index of the prefix "user." */
	EROFS_XATTR_VALUE_MAX = 65535,
	EROFS_XATTR_AREA_MAX = 12 + 4 * (65535 - 1), /* 16 bits count what follows the header, in words */
};

/* File types of dirents, as the kernel's fs_ftype_to_dtype has them. */
enum erofs_type {
	EROFS_TYPE_FILE = 1,
	EROFS_TYPE_DIR = 2,
	EROFS_TYPE_CHAR = 3,
	EROFS_TYPE_FIFO = 5,
	EROFS_TYPE_SYMLINK = 7,
};

struct erofs_super {
	uint32_t magic;
	uint32_t checksum; /* CRC-32C of the block from here's struct on, this field as 0 */
	uint32_t compat;
	uint8_t block_bits;
	uint8_t extra_slots;
	uint16_t root_nid;
	uint64_t inodes;
	uint64_t build_s;
	uint32_t build_ns;
	uint32_t blocks;
	uint32_t meta_block;
	uint32_t shared_xattr_block;
	uint8_t uuid[16];
	uint8_t volume[16];
	uint32_t incompat;
	uint16_t compression;
	uint16_t devices;
	uint16_t device_slot; /* where the table begins, in units of a slot */
	uint8_t reserved[38];
};

/* One device of the table, in the order in which they are given to mount. */
struct erofs_device {
	uint8_t tag[64];
	uint32_t blocks;
	uint32_t first; /* address of its block 0 */
	uint8_t reserved[56];
};

struct erofs_disk_inode {
	uint16_t format;
	uint16_t xattr_count; /* 0: none; else 1 + words behind the header */
	uint16_t mode;
	uint16_t reserved;
	uint64_t size;
	uint32_t block; /* the first one, or the device's number */
	uint32_t number;
	uint32_t uid, gid;
	uint64_t mtime_s; /* two's complement: the kernel takes it as signed */
	uint32_t mtime_ns;
	uint32_t nlink;
	uint8_t unused[16];
};

struct erofs_dirent {
	uint64_t nid;
	uint16_t name_offset; /* in this block; of the first dirent: the size of the array */
	uint8_t type;
	uint8_t reserved;
} __attribute__((packed));

/* Behind an inode: this, then entries, each padded to four bytes. */
struct erofs_xattr_header {
	uint32_t filter;
	uint8_t shared_count;
	uint8_t reserved[7];
};

/* Followed by the name without its prefix, and the value. */
struct erofs_xattr_entry {
	uint8_t name_size;
	uint8_t prefix;
	uint16_t value_size;
};

_Static_assert(sizeof(struct erofs_super) == 128, "as on disk");
_Static_assert(sizeof(struct erofs_device) == 128, "as on disk");
_Static_assert(sizeof(struct erofs_disk_inode) == 64, "as on disk");
_Static_assert(sizeof(struct erofs_dirent) == 12, "as on disk");
_Static_assert(sizeof(struct erofs_xattr_header) == 12, "as on disk");
_Static_assert(sizeof(struct erofs_xattr_entry) == 4, "as on disk");

#endif
