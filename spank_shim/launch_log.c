/* SPDX-License-Identifier: Apache-2.0 */
#include "launch_log.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "block.h"
#include "options.h"
#include "slurm_api.h"

enum launch_outcome { LAUNCH_NONE, LAUNCH_BUILT, LAUNCH_REFUSED };

static const char *const outcomes[] = { "none", "started", "refused" };

/* Of facility daemon: 3 * 8 + 6, information. Source: RFC 3164, and /dev/log as syslog(3) writes to it. */
#define PRIORITY "<30>"
#ifndef LOG_SOCKET
#define LOG_SOCKET "/dev/log"
#endif
#define IMAGE_VARIABLE "FAIRLEAD_CONTAINER"
#define STEP_NUMBERS_END 0xfffffff0u /* above are kinds of steps, not numbers */

static int64_t milliseconds(const struct timespec *from, const struct timespec *to)
{
	return (int64_t)(to->tv_sec - from->tv_sec) * 1000 + (to->tv_nsec - from->tv_nsec) / 1000000;
}

void launch_log_begin(spank_t spank, struct launch_record *record)
{
	spank_err_t err = spank_getenv(spank, VARIABLE_REFERENCE, record->reference, sizeof(record->reference));

	if (err != ESPANK_SUCCESS && err != ESPANK_NOSPACE) /* that is: cut */
		*record->reference = '\0';
	spank_get_item(spank, S_JOB_ID, &record->job);
	spank_get_item(spank, S_JOB_STEPID, &record->step);
	spank_get_item(spank, S_JOB_UID, &record->uid);
	spank_get_item(spank, S_JOB_GID, &record->gid);
	spank_get_item(spank, S_JOB_LOCAL_TASK_COUNT, &record->local_tasks);
	clock_gettime(CLOCK_MONOTONIC, &record->begun);
}

/* The image is what the container's own environment says. */
static void find_image(int block, char *ret, size_t size)
{
	struct block_cursor cursor;
	struct block_record record;
	struct stat info;
	void *data;

	if (block < 0 || fstat(block, &info) < 0 || info.st_size <= 0)
		return;
	data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, block, 0);
	if (data == MAP_FAILED)
		return;
	if (block_open(&cursor, data, (size_t)info.st_size) == 0)
		while (block_next(&cursor, &record))
			if (record.op == OP_ENV_SET && record.count == 2 && strcmp(record.string[0], IMAGE_VARIABLE) == 0)
				snprintf(ret, size, "%s", record.string[1]);
	munmap(data, (size_t)info.st_size);
}

void launch_log_built(struct launch_record *record, const struct channel_message *message, int block, int kept)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	record->ready_ms = (uint32_t)milliseconds(&record->begun, &now);
	record->kept = kept;
	record->status = message->status;
	if (message->status == 0)
		find_image(block, record->text, sizeof(record->text));
	else
		snprintf(record->text, sizeof(record->text), "%s", message->text);
	record->outcome = message->status == 0 ? LAUNCH_BUILT : LAUNCH_REFUSED;
}

/* A string of JSON: whatever the user wrote, it stays one string on one line of ASCII. */
static void add_text(FILE *out, const char *key, const char *value, size_t size)
{
	size_t length = strnlen(value, size);

	fprintf(out, ",\"%s\":\"", key);
	for (size_t i = 0; i < length; i++) {
		unsigned char c = (unsigned char)value[i];

		if (c == '"' || c == '\\')
			fprintf(out, "\\%c", c);
		else if (c < ' ' || c > '~')
			fprintf(out, "\\u%04x", c); /* a byte that is no ASCII, as Latin-1 */
		else
			fputc(c, out);
	}
	fputc('"', out);
}

static void add_step(FILE *out, uint32_t step)
{
	const char *kind = step == STEP_BATCH ? "batch" : step == STEP_INTERACTIVE ? "interactive" : "other";

	if (step < STEP_NUMBERS_END)
		fprintf(out, ",\"step\":\"%u\"", step);
	else
		fprintf(out, ",\"step\":\"%s\"", kind);
}

static void add_all(FILE *out, const struct launch_record *record)
{
	int outcome = record->outcome >= 0 && record->outcome <= LAUNCH_REFUSED ? record->outcome : LAUNCH_NONE;
	char host[256] = "", when[32];
	struct timespec now;
	struct tm utc;
	time_t clock = time(NULL);

	gethostname(host, sizeof(host) - 1);
	clock_gettime(CLOCK_MONOTONIC, &now);
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&clock, &utc));
	fprintf(out, "{\"event\":\"step\",\"time\":\"%s\"", when);
	add_text(out, "host", host, sizeof(host));
	fprintf(out, ",\"job\":%u", record->job);
	add_step(out, record->step);
	fprintf(out, ",\"uid\":%u,\"gid\":%u,\"tasks\":%u,\"seconds\":%.3f", record->uid, record->gid, record->local_tasks,
		(double)milliseconds(&record->begun, &now) / 1000);
	add_text(out, "reference", record->reference, sizeof(record->reference));
	fprintf(out, ",\"outcome\":\"%s\"", outcomes[outcome]);
	if (outcome != LAUNCH_NONE)
		fprintf(out, ",\"status\":%d,\"ready_ms\":%u,\"kept_plan\":%s", record->status, record->ready_ms,
			record->kept ? "true" : "false");
	if (outcome != LAUNCH_NONE)
		add_text(out, outcome == LAUNCH_BUILT ? "image" : "error", record->text, sizeof(record->text));
	fputc('}', out);
}

static void to_syslog(const char *line)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = LOG_SOCKET };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	char *text = NULL;
	int size = asprintf(&text, PRIORITY "fairlead[%d]: %s", getpid(), line);

	if (fd >= 0 && size > 0)
		sendto(fd, text, (size_t)size, MSG_NOSIGNAL, (struct sockaddr *)&address, sizeof(address));
	free(text);
	if (fd >= 0)
		close(fd);
}

static void to_file(const char *path, const char *line)
{
	int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0640);
	char *text = NULL;
	int size = asprintf(&text, "%s\n", line);

	/* One write, so that the lines of several steps do not mix. */
	if (fd >= 0 && size > 0 && write(fd, text, (size_t)size) < 0)
		slurm_error("fairlead: %s: %m", path);
	if (fd < 0)
		slurm_error("fairlead: %s: %m", path);
	free(text);
	if (fd >= 0)
		close(fd);
}

void launch_log_write(const struct launch_record *record, const char *to)
{
	char *line = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&line, &size);

	if (!out)
		return;
	add_all(out, record);
	if (fclose(out) == 0 && *to == '/')
		to_file(to, line);
	else if (line && strcmp(to, "syslog") == 0)
		to_syslog(line);
	free(line);
}
