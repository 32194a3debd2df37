/* SPDX-License-Identifier: Apache-2.0 */
#include "report.h"

#include <stdio.h>

int report_set(struct report *report, int step, int err, const char *detail)
{
	report->step = step;
	report->err = err;
	snprintf(report->detail, sizeof(report->detail), "%s", detail ? detail : "");
	return -err;
}

char *report_printable(char *line)
{
	for (unsigned char *c = (unsigned char *)line; *c; c++) {
		if (*c < ' ' || *c == 0x7f)
			*c = '?';
		else if (*c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0)
			c[0] = c[1] = '?';
	}
	return line;
}
