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

int sink_path_failed(struct sink_report *report, int rc, const char *operation)
{
	switch (rc) {
	case 0:
		return 0;
	case -ENOTDIR:
		return sink_refuse(report, "a parent is not a directory");
	case -ELOOP:
		return sink_refuse(report, "too many symbolic links on its way");
	case -ENAMETOOLONG:
		return sink_refuse(report, "a name on its way, or a link's target, is too long");
	case -E2BIG:
		return sink_refuse(report, "it lies deeper than the limit");
	default:
		return sink_failed(report, rc, operation);
	}
}

void sink_warn(struct sink_stats *stats, enum sink_warning kind, const char *path)
{
	if (stats->warnings[kind]++ == 0)
		snprintf(stats->examples[kind], sizeof(stats->examples[kind]), "%s", path);
}
