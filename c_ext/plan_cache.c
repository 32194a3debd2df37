/* SPDX-License-Identifier: Apache-2.0 */
#include "plan_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "block.h"
#include "plan_check.h"
#include "plan_entry.h"
#include "plan_expand.h"
#include "report.h"

enum { NAME_SIZE = 17 };

void plan_cache_directory(char ret[PLAN_DIRECTORY_SIZE])
{
	snprintf(ret, PLAN_DIRECTORY_SIZE, "/var/tmp/fairlead-plans-%u", geteuid());
}

static void entry_name(const void *key, size_t key_size, char ret[NAME_SIZE])
{
	snprintf(ret, NAME_SIZE, "%016" PRIx64, plan_hash(key, key_size));
}

/* /var/tmp is everybody's: another's directory, or one that another may enter, is no cache. */
static int open_directory(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || st.st_uid != geteuid() || (st.st_mode & 077)) {
		close(fd);
		return -EPERM;
	}
	return fd;
}

/* The whole file in memory that the caller frees; never waits, even for a FIFO. */
static int read_file(int directory, const char *name, void **ret_data, size_t *ret_size)
{
	int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), err = 0;
	unsigned char *data = NULL;
	size_t size = 0, used = 0;
	struct stat st;
	ssize_t n;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid() || st.st_size <= 0 ||
	    st.st_size > PLAN_ENTRY_MAX_SIZE)
		err = -EBADMSG;
	if (!err) {
		size = (size_t)st.st_size;
		data = malloc(size);
		err = data ? 0 : -ENOMEM;
	}
	while (!err && used < size) {
		n = read(fd, data + used, size - used);
		if (n > 0)
			used += (size_t)n;
		else if (n == 0 || errno != EINTR)
			err = -EBADMSG;
	}
	close(fd);
	if (err) {
		free(data);
		return err;
	}
	*ret_data = data;
	*ret_size = size;
	return 0;
}

/* Before the checks: what they find then stays until the container stands. */
static int take_holds(struct plan *plan)
{
	struct block_cursor cursor;
	struct block_record record;
	int fd;

	block_open(&cursor, plan->entry_block, plan->entry_block_size);
	while (block_next(&cursor, &record)) {
		if (record.op == OP_IMAGE) {
			plan->image = record.string[0];
			plan->injection = record.count > 1 ? record.string[1] : NULL;
		}
		if (record.op == OP_UPPER && record.count > 1)
			plan->upper = record.string[0];
		if (record.op == OP_SAME)
			plan->same = record.string[0];
		if (record.op != OP_HOLD)
			continue;
		if (plan->hold_count == PLAN_MAX_HOLDS)
			return -EBADMSG;
		fd = open(record.string[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			return -ESTALE;
		plan->holds[plan->hold_count++] = fd;
		if (flock(fd, LOCK_SH | LOCK_NB) < 0)
			return -ESTALE;
		futimens(fd, NULL); /* gc goes by it; a disk that has become read-only is no reason not to run */
	}
	return 0;
}

static int is_expired(uint64_t expires_s)
{
	struct timespec now;

	return clock_gettime(CLOCK_BOOTTIME, &now) < 0 || (uint64_t)now.tv_sec > expires_s;
}

static int prepare(struct plan *plan, size_t file_size, const void *key, size_t key_size, char *const *environment)
{
	struct plan_entry entry;
	const char *failed;
	int err = plan_entry_open(&entry, plan->file, file_size);

	if (!err && (entry.key_size != key_size || memcmp(entry.key, key, key_size) != 0 || is_expired(entry.expires_s)))
		err = -ESTALE;
	if (err)
		return err;
	plan->entry_block = entry.block;
	plan->entry_block_size = entry.block_size;
	err = take_holds(plan);
	if (!err)
		err = plan_check(entry.block, entry.block_size, environment, &failed);
	if (!err)
		err = plan_expand(entry.block, entry.block_size, environment, &plan->block, &plan->block_size);
	return err;
}

int plan_cache_find(const char *directory, const void *key, size_t key_size, char *const *environment,
		    struct plan *ret_plan)
{
	int fd = open_directory(directory), err;
	char name[NAME_SIZE];
	size_t size = 0;

	*ret_plan = (struct plan){ 0 };
	if (fd < 0)
		return fd;
	entry_name(key, key_size, name);
	err = read_file(fd, name, &ret_plan->file, &size);
	if (!err)
		err = prepare(ret_plan, size, key, key_size, environment);
	if (err)
		plan_cache_release(ret_plan);
	if (err && err != -ENOENT)
		unlinkat(fd, name, 0);
	close(fd);
	return err;
}

void plan_cache_forget(const char *directory, const void *key, size_t key_size)
{
	int fd = open_directory(directory);
	char name[NAME_SIZE];

	if (fd < 0)
		return;
	entry_name(key, key_size, name);
	unlinkat(fd, name, 0);
	close(fd);
}

void plan_cache_tell(const struct plan *plan, int fd)
{
	struct block_cursor cursor;
	struct block_record record;
	char line[2048];

	block_open(&cursor, plan->entry_block, plan->entry_block_size);
	while (block_next(&cursor, &record)) {
		if (record.op != OP_NOTE)
			continue;
		snprintf(line, sizeof(line), "%s", record.string[0]);
		dprintf(fd, "fairlead: %s\n", report_printable(line));
	}
}

void plan_cache_release(struct plan *plan)
{
	for (unsigned int i = 0; i < plan->hold_count; i++)
		close(plan->holds[i]);
	free(plan->block);
	free(plan->file);
	*plan = (struct plan){ 0 };
}
