/* SPDX-License-Identifier: Apache-2.0 */
#include "arguments.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef FAIRLEAD_PREFIX
#define FAIRLEAD_PREFIX "/opt/fairlead"
#endif

#define GRACE_S 3600
#define UPPER_MAX "50%"

struct arguments arguments = { .prefix = FAIRLEAD_PREFIX, .upper_max = UPPER_MAX, .grace_s = GRACE_S };

void arguments_read(int argc, char *argv[])
{
	char *end;

	for (int i = 0; i < argc; i++) {
		if (strncmp(argv[i], "prefix=/", 8) == 0)
			snprintf(arguments.prefix, sizeof(arguments.prefix), "%s", argv[i] + 7);
		if (strncmp(argv[i], "site=/", 6) == 0)
			snprintf(arguments.site, sizeof(arguments.site), "%s", argv[i] + 5);
		if (strncmp(argv[i], "upper_max=", 10) == 0)
			snprintf(arguments.upper_max, sizeof(arguments.upper_max), "%s", argv[i] + 10);
		if (strncmp(argv[i], "grace=", 6) == 0 && argv[i][6]) {
			unsigned long seconds = strtoul(argv[i] + 6, &end, 10);

			if (!*end && seconds <= 366ul * 86400)
				arguments.grace_s = (unsigned int)seconds;
		}
	}
}
