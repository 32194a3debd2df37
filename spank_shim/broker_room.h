/* SPDX-License-Identifier: Apache-2.0
 *
 * How much room a step's upper directory may have: what its user wants, held against what root's own words allow and what
 * the file system has. Nothing here is taken from a user's settings but the wish itself. */
#ifndef FAIRLEAD_BROKER_ROOM_H
#define FAIRLEAD_BROKER_ROOM_H

#include <stdint.h>

/* The bytes of an upper directory. Sizes are "8G" or "20%", of what is free above what must stay free.
 *
 *   store    a descriptor on the file system
 *   wanted   by the user; empty: ROOM_DEFAULT, or less where the site allows less
 *   max      by the administrator (upper_max= in plugstack.conf)
 *
 * What must stay free is the site's store_min_free, a hundredth of the file system at least. 0 or -errno with detail:
 * -EINVAL a size is malformed, -EDQUOT the site allows less, -ENOSPC there is less. */
int room_for_upper(int store, const char *wanted, const char *max, uint64_t *ret_bytes, char *ret_detail,
		   unsigned int size);

#endif
