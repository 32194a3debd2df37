/* SPDX-License-Identifier: Apache-2.0
 *
 * What the image's own dynamic loader says of the command, in the container and before any rank runs. The loader is a
 * program of the image: it runs in a child, as the user, without capabilities and with no_new_privs, for a limited time,
 * and what it prints is limited and only read. */
#ifndef FAIRLEAD_PREFLIGHT_H
#define FAIRLEAD_PREFLIGHT_H

#include <stddef.h>

#include "program.h"

#define PREFLIGHT_TEXT 65536

struct preflight {
	struct program_facts program;
	char path[4096];             /* the command, as PATH finds it */
	int timed_out;
	size_t length;               /* of the text; 0 where no loader was asked */
	char text[PREFLIGHT_TEXT];
};

/* Inspect a command of the launch block's environment and, with trace, ask its loader: only for a dynamic program of this
 * machine that gains no rights. 0 or -errno. */
int preflight_run(const void *block, size_t size, const char *command, const char *path_variable, int trace,
		  unsigned int limit_ms, struct preflight *ret);

#endif
