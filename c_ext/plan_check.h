/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether what a cached plan was decided from is still so. A check compares texts: what the plan saw, and what stat or
 * the environment say now. host/witness.py writes the same texts; a test holds the two together. */
#ifndef FAIRLEAD_PLAN_CHECK_H
#define FAIRLEAD_PLAN_CHECK_H

#include <stddef.h>

#define PLAN_WITNESS_SIZE 128

/* What is known of a path: "absent"; else "DEVICE INODE SIZE MTIME CTIME" with times in nanoseconds; or with CHECK_KIND
 * what it is: "file", "directory", "own directory" (of this user), "device MAJOR:MINOR" (a character device), "other". */
void plan_witness(const char *path, unsigned int flags, char ret[PLAN_WITNESS_SIZE]);

/* Make every check of a block that block_open() accepted. 0, or -ESTALE and the first string of the record that
 * failed: a path, a variable's name or a template. */
int plan_check(const void *block, size_t size, char *const *environment, const char **ret_failed);

#endif
