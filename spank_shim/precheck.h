/* SPDX-License-Identifier: Apache-2.0
 *
 * The look at the options before there is an allocation: the engine's own, by the interpreter of this installation, as
 * the user (docs/adr/0020-options-from-srun.md). It protects nothing, since the node checks again. */
#ifndef FAIRLEAD_PRECHECK_H
#define FAIRLEAD_PRECHECK_H

#include <stddef.h>

/* Whether the engine refuses the options that were exported; fills its line then. A submitting host without an engine,
 * or where it does not start, refuses nothing. */
int precheck_refuses(const char *prefix, char *ret_line, size_t size);

#endif
