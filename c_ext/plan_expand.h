/* SPDX-License-Identifier: Apache-2.0
 *
 * From the block of a cached plan to the launch block of this step: what differs in every step (the directories of
 * its PMIx server) stands there as ${NAME}. Pure: the environment is an argument, "NAME=VALUE" strings and NULL. */
#ifndef FAIRLEAD_PLAN_EXPAND_H
#define FAIRLEAD_PLAN_EXPAND_H

#include <stddef.h>

/* The value of a variable, or NULL; the name is the first length bytes. */
const char *plan_variable(char *const *environment, const char *name, size_t length);

/* Replace every ${NAME} of a path, and remove the slashes at its end, which PMIX_SERVER_TMPDIR has. -ENOENT: no such
 * variable; -EBADMSG: ${ without a name and }; -ENAMETOOLONG. */
int plan_expand_text(const char *text, char *const *environment, char *ret, size_t size);

/* Expand the templates of a block that block_open() accepted, leaving the records of the cache out; the caller frees
 * the result. 0, -ENOENT, -EBADMSG, -ENAMETOOLONG (a string over PATH_MAX) or -ENOMEM. */
int plan_expand(const void *block, size_t size, char *const *environment, void **ret_block, size_t *ret_size);

#endif
