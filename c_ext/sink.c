/* SPDX-License-Identifier: Apache-2.0 */
#include "sink.h"

#include <errno.h>
#include <stdio.h>

int sink_refuse(struct sink_report *report, const char *detail)
{
	if (!report->err) {
		report->err = EBADMSG;
		report->refused = 1;
		snprintf(report->detail, sizeof(report->detail), "%s", detail);
	}
	return -EBADMSG;
}

int sink_failed(struct sink_report *report, int rc, const char *operation)
{
	if (!report->err) {
		report->err = -rc;
		report->refused = 0;
		snprintf(report->detail, sizeof(report->detail), "%s", operation);
	}
	return rc;
}

void sink_warn(struct sink_stats *stats, enum sink_warning kind, const char *path)
{
	if (stats->warnings[kind]++ == 0)
		snprintf(stats->examples[kind], sizeof(stats->examples[kind]), "%s", path);
}
