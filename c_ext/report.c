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
