/* SPDX-License-Identifier: Apache-2.0
 *
 * One line of JSON for each step that asked for a container, and node: what an administrator collects (docs/admin.md).
 * It is written by slurmstepd, as root, when the step ends: who, where and when are Slurm's own words. Which image it was,
 * and how its launch ended, is noted by the task that built the container, in memory that no application ever sees; a
 * user who deceives their own engine can deceive this note, and nobody else's. */
#ifndef FAIRLEAD_LAUNCH_LOG_H
#define FAIRLEAD_LAUNCH_LOG_H

#include <slurm/spank.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "channel.h"

/* Lies in memory that slurmstepd shares with its tasks. */
struct launch_record {
	uint32_t job, step, local_tasks;
	uid_t uid;
	gid_t gid;
	char reference[1024]; /* what the job asked for */
	struct timespec begun; /* monotonic */
	int outcome; /* of enum launch_outcome */
	int status, kept;
	uint32_t ready_ms; /* from its beginning until the container stood, or was refused */
	char text[2048]; /* the image with its digest, or the line that the user got */
};

/* Before the tasks are forked. */
void launch_log_begin(spank_t spank, struct launch_record *record);

/* In the task that built; block: the descriptor of the launch block; kept: from a kept plan. */
void launch_log_built(struct launch_record *record, const struct channel_message *message, int block, int kept);

/* In slurmstepd, at the end of the step; to: "syslog" or a path. Neither waits nor fails. */
void launch_log_write(const struct launch_record *record, const char *to);

#endif
