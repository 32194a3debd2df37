/* SPDX-License-Identifier: Apache-2.0
 *
 * One file of the plan cache: a launch that was decided before, what it was decided from, and what must still be true.
 *
 *   header   magic "FAIRPL1\0" | u64 checksum of all that follows it | u64 last second of validity, by CLOCK_BOOTTIME
 *            | u32 size of the key | u32 size of the block
 *   key      the request, this node and this user (plan_key.h), compared byte for byte
 *   block    block.h: OP_CHECK_* records, then those of the launch, some of them templates
 *
 * Integers are in host order: an entry never leaves the node, nor the boot. Written by engine/fairlead/run/keep.py.
 * The checksum finds accidents; against an attacker stands the directory, which only its owner can enter. */
#ifndef FAIRLEAD_PLAN_ENTRY_H
#define FAIRLEAD_PLAN_ENTRY_H

#include <stddef.h>
#include <stdint.h>

#define PLAN_ENTRY_MAGIC "FAIRPL1"
#define PLAN_ENTRY_MAX_SIZE (4u << 20)

struct plan_entry {
	uint64_t expires_s;
	const void *key;
	size_t key_size;
	const void *block;
	size_t block_size;
};

/* FNV-1a, 64 bits: names the file after its key, and sums its content. */
uint64_t plan_hash(const void *data, size_t size);

/* Check a whole entry, its block included, and point into it: 0 or -EBADMSG. */
int plan_entry_open(struct plan_entry *ret_entry, const void *data, size_t size);

#endif
