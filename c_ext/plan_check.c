/* SPDX-License-Identifier: Apache-2.0 */
#include "plan_check.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "block.h"
#include "plan_expand.h"

static int64_t nanoseconds(struct timespec time)
{
	return (int64_t)((uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec);
}

void plan_witness(const char *path, unsigned int flags, char ret[PLAN_WITNESS_SIZE])
{
	struct stat st;

	if (fstatat(AT_FDCWD, path, &st, flags & CHECK_NOFOLLOW ? AT_SYMLINK_NOFOLLOW : 0) < 0)
		snprintf(ret, PLAN_WITNESS_SIZE, "absent");
	else if (!(flags & CHECK_KIND))
		snprintf(ret, PLAN_WITNESS_SIZE, "%ju %ju %jd %" PRId64 " %" PRId64, (uintmax_t)st.st_dev,
			 (uintmax_t)st.st_ino, (intmax_t)st.st_size, nanoseconds(st.st_mtim), nanoseconds(st.st_ctim));
	else if (S_ISREG(st.st_mode))
		snprintf(ret, PLAN_WITNESS_SIZE, "file");
	else if (S_ISDIR(st.st_mode))
		snprintf(ret, PLAN_WITNESS_SIZE, "%s", st.st_uid == getuid() ? "own directory" : "directory");
	else if (S_ISCHR(st.st_mode))
		snprintf(ret, PLAN_WITNESS_SIZE, "device %u:%u", major(st.st_rdev), minor(st.st_rdev));
	else
		snprintf(ret, PLAN_WITNESS_SIZE, "other");
}

static int check_file(const struct block_record *record, char *const *environment)
{
	char path[PATH_MAX], seen[PLAN_WITNESS_SIZE];

	if (record->flags & RECORD_TEMPLATE) {
		if (plan_expand_text(record->string[0], environment, path, sizeof(path)) < 0)
			return 0;
		plan_witness(path, record->flags, seen);
	} else {
		plan_witness(record->string[0], record->flags, seen);
	}
	return strcmp(seen, record->string[1]) == 0;
}

static int check_variable(const struct block_record *record, char *const *environment)
{
	const char *value = plan_variable(environment, record->string[0], strlen(record->string[0]));

	if (record->flags & CHECK_PRESENT || record->count == 1)
		return (record->flags & CHECK_PRESENT) ? value != NULL : value == NULL;
	return value && strcmp(value, record->string[1]) == 0;
}

static int check_names(const struct block_record *record, char *const *environment)
{
	const char *prefix = record->string[0];
	size_t length = strlen(prefix);

	for (unsigned int i = 1; i < record->count; i++)
		if (!plan_variable(environment, record->string[i], strlen(record->string[i])))
			return 0;
	for (; *environment; environment++) {
		size_t name = strcspn(*environment, "=");
		unsigned int i = 1;

		if (strncmp(*environment, prefix, length) != 0)
			continue;
		while (i < record->count && (strlen(record->string[i]) != name ||
					     memcmp(record->string[i], *environment, name) != 0))
			i++;
		if (i == record->count)
			return 0;
	}
	return 1;
}

static int check_same(const struct block_record *record, char *const *environment)
{
	char one[PATH_MAX], other[PATH_MAX];

	return plan_expand_text(record->string[0], environment, one, sizeof(one)) == 0 &&
	       plan_expand_text(record->string[1], environment, other, sizeof(other)) == 0 && strcmp(one, other) == 0;
}

int plan_check(const void *block, size_t size, char *const *environment, const char **ret_failed)
{
	struct block_cursor cursor;
	struct block_record record;
	int fine = 1;

	*ret_failed = "";
	if (block_open(&cursor, block, size) < 0)
		return -ESTALE;
	while (fine && block_next(&cursor, &record)) {
		switch (record.op) {
		case OP_CHECK_FILE:
			fine = check_file(&record, environment);
			break;
		case OP_CHECK_VARIABLE:
			fine = check_variable(&record, environment);
			break;
		case OP_CHECK_NAMES:
			fine = check_names(&record, environment);
			break;
		case OP_CHECK_SAME:
			fine = check_same(&record, environment);
			break;
		default:
			break;
		}
		if (!fine)
			*ret_failed = record.string[0];
	}
	return fine ? 0 : -ESTALE;
}
