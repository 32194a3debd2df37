/* SPDX-License-Identifier: Apache-2.0
 *
 * The one line that is said, and the end that follows it. */
#ifndef FAIRLEAD_WORLD_LINE_H
#define FAIRLEAD_WORLD_LINE_H

#include <stddef.h>

#include "step.h"

#define STATUS 125

struct line {
	char text[1024];
	size_t used;
};

/* Control characters become question marks; what does not fit is left out. */
void line_add(struct line *line, const char *text);
void line_add_number(struct line *line, long number);

_Noreturn void line_fail(const struct step *step, struct line *line);

#endif
