/* SPDX-License-Identifier: Apache-2.0 */
#include "seal.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *seal_command(const char *command)
{
	char *sealed;

	return asprintf(&sealed, "%s%s", SEAL_PREFIX, command) < 0 ? NULL : sealed;
}

const char *seal_open(const char *sealed)
{
	size_t len = strlen(SEAL_PREFIX);

	return strncmp(sealed, SEAL_PREFIX, len) == 0 ? sealed + len : NULL;
}

/* One line is "ranks program arguments"; comments and empty lines stay, and so does a line that continues another
 * (a backslash at its end). Source: Slurm's multi_prog.c, multi_prog_get_argv(). */
char *seal_programs(const char *text)
{
	char *sealed = NULL;
	size_t size = 0, len, indent, ranks, gap;
	int continued = 0;
	FILE *out = open_memstream(&sealed, &size);

	if (!out)
		return NULL;
	for (const char *line = text; *line; line += len + (line[len] == '\n')) {
		len = strcspn(line, "\n");
		indent = strspn(line, " \t");
		if (continued || indent == len || line[indent] == '#') {
			fprintf(out, "%.*s\n", (int)len, line);
		} else {
			ranks = indent + strcspn(line + indent, " \t\n");
			gap = strspn(line + ranks, " \t");
			fprintf(out, "%.*s %s %.*s\n", (int)ranks, line, SEAL_PROGRAM, (int)(len - ranks - gap),
				line + ranks + gap);
		}
		continued = len > 0 && line[len - 1] == '\\';
	}
	if (fclose(out) != 0) {
		free(sealed);
		return NULL;
	}
	return sealed;
}
