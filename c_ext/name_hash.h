/* SPDX-License-Identifier: Apache-2.0
 *
 * A keyed hash of a name in a directory. Names come from an attacker, who must not be able to pile them up in one
 * bucket, or to make one name look like another: each table draws a key of its own. */
#ifndef FAIRLEAD_NAME_HASH_H
#define FAIRLEAD_NAME_HASH_H

#include <stddef.h>
#include <stdint.h>

/* Draw a key; 0 or -errno. */
int name_hash_key(uint64_t ret_key[2]);

/* SipHash-1-3 of the directory's id and the name. */
uint64_t name_hash(const uint64_t key[2], uint64_t id, const char *name, size_t size);

#endif
