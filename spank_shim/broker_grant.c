/* SPDX-License-Identifier: Apache-2.0 */
#include "broker_grant.h"

#include "old_headers.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { GRANT_BYTES = 1 << 17, CLOCK_SLACK_S = 5, JOB_AGE_S = 31 * 86400 };

/* Below the store, by real directories only. */
static int open_beneath(const struct site *site, const char *path, uint64_t flags, uint64_t mode)
{
	struct open_how how = { .flags = flags | O_CLOEXEC | O_NOFOLLOW, .mode = mode,
				.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV };
	long fd = syscall(SYS_openat2, site->fd, path, &how, sizeof(how));

	return fd < 0 ? -errno : (int)fd;
}

int site_open(struct site *site, const char *path, char *ret_detail, unsigned int size)
{
	struct stat st;

	snprintf(ret_detail, size, "%s", path);
	site->fd = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (site->fd < 0)
		return -errno;
	if (fstat(site->fd, &st) < 0)
		return -errno;
	if (st.st_uid == 0 || (st.st_mode & 077)) {
		snprintf(ret_detail, size, "%s: must belong to the service account with mode 0700, not to uid %u with %04o",
			 path, st.st_uid, st.st_mode & 07777);
		return -EPERM;
	}
	site->service = st.st_uid;
	site->service_gid = st.st_gid;
	return 0;
}

int site_file(const struct site *site, const char *path, unsigned long long *ret_size)
{
	struct stat st;
	int fd = open_beneath(site, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != site->service || (st.st_mode & 022)) {
		close(fd);
		return -EPERM;
	}
	if (ret_size)
		*ret_size = (unsigned long long)st.st_size;
	return fd;
}

static int is_hex(const char *text)
{
	size_t length = strspn(text, "0123456789abcdef");

	return !text[length] && length == 64;
}

/* The value of a line "KEY NUMBER"; 0 or -EBADMSG. */
static int number_of(const char *line, const char *key, unsigned long long *ret)
{
	size_t length = strlen(key);
	char *end;

	if (strncmp(line, key, length) != 0 || line[length] != ' ' || line[length + 1] < '0' || line[length + 1] > '9')
		return -EBADMSG;
	if (line[length + 1] == '0' && line[length + 2])
		return -EBADMSG; /* one number has one form */
	errno = 0;
	*ret = strtoull(line + length + 1, &end, 10);
	return *end || errno ? -EBADMSG : 0;
}

/* What follows the first word of a line "index HEX BYTES" or "injection HEX BYTES". */
static int sized_name_of(const char *text, char ret_name[BROKER_HEX + 1], unsigned long long *ret_bytes)
{
	snprintf(ret_name, BROKER_HEX + 1, "%.64s", text);
	return is_hex(ret_name) ? number_of(text, ret_name, ret_bytes) : -EBADMSG;
}

/* A line behind the head: "layer HEX", and after all of them "injection HEX BYTES". */
static int member_of(const char *line, struct grant *ret)
{
	struct injection *injection = ret->injection + ret->injection_count;

	if (strncmp(line, "injection ", 10) == 0) {
		if (!ret->count || ret->injection_count == GRANT_MAX_INJECTIONS)
			return -EBADMSG;
		ret->injection_count++;
		return sized_name_of(line + 10, injection->name, &injection->bytes);
	}
	if (strncmp(line, "layer ", 6) != 0 || !is_hex(line + 6) || ret->count == BROKER_MAX_LAYERS || ret->injection_count)
		return -EBADMSG;
	memcpy(ret->layer[ret->count++], line + 6, strlen(line + 6) + 1);
	return 0;
}

/* Lines of a fixed order: what is missing, doubled or unknown makes the whole worthless. */
static int parse(char *text, const struct site *site, unsigned int *ret_job, struct grant *ret)
{
	unsigned long long uid = 0, job = 0;
	char *rest = text, *line;

	ret->count = 0;
	ret->injection_count = 0;
	ret->index[0] = '\0';
	for (unsigned int number = 0; (line = strsep(&rest, "\n")); number++) {
		int err = 0;

		if (!rest)
			return *line || !ret->count ? -EBADMSG : 0; /* what follows the last newline: nothing */
		if (number == 0)
			err = strcmp(line, "fairlead-grant 1") ? -EBADMSG : 0;
		else if (number == 1)
			err = number_of(line, "uid", &uid) || uid != site->uid ? -EBADMSG : 0;
		else if (number == 2)
			err = number_of(line, "job", &job) || job > UINT_MAX ? -EBADMSG : 0;
		else if (number == 3)
			err = number_of(line, "size", &ret->size);
		else if (number == 4 && strncmp(line, "index ", 6) == 0)
			err = sized_name_of(line + 6, ret->index, &ret->index_bytes);
		else
			err = member_of(line, ret);
		if (err)
			return err;
		*ret_job = (unsigned int)job;
	}
	return -EBADMSG;
}

static time_t boot_time(void)
{
	struct timespec now, up;

	clock_gettime(CLOCK_REALTIME, &now);
	clock_gettime(CLOCK_BOOTTIME, &up);
	return now.tv_sec - up.tv_sec - 1;
}

/* Access was proven by this very job, or by the same user a short while ago. Job numbers may start over, so those of
 * an earlier boot, or a month old, count for nothing. */
static int is_fresh(const struct site *site, time_t proven, unsigned int job)
{
	time_t age = time(NULL) - proven;

	if (age < -CLOCK_SLACK_S)
		return 0;
	return age <= site->grace_s || (job && job == site->job && age < JOB_AGE_S && proven >= boot_time());
}

static void leave_lease(const struct site *site, const char *image)
{
	char path[64 + BROKER_HEX];
	int fd;

	snprintf(path, sizeof(path), "leases/%u.%s", site->job, image);
	fd = open_beneath(site, path, O_WRONLY | O_CREAT | O_EXCL, 0600);
	if (fd == -EEXIST) {
		fd = open_beneath(site, path, O_WRONLY | O_NONBLOCK, 0);
		if (fd >= 0)
			futimens(fd, NULL);
	} else if (fd >= 0 && fchown(fd, site->service, site->service_gid) < 0) {
		/* An empty file of root's in the service's directory: gc can read its name and remove it all the same. */
	}
	if (fd >= 0)
		close(fd);
}

int grant_read(const struct site *site, const char *image, struct grant *ret_grant)
{
	const struct timespec times[2] = { { .tv_nsec = UTIME_NOW }, { .tv_nsec = UTIME_OMIT } };
	char path[64 + BROKER_HEX], *text;
	unsigned int job = 0;
	struct stat st;
	ssize_t n = -1;
	int fd, err;

	if (!is_hex(image))
		return -EINVAL;
	snprintf(path, sizeof(path), "grants/%u/%s", site->uid, image);
	fd = site_file(site, path, NULL);
	if (fd < 0)
		return fd;
	text = malloc(GRANT_BYTES + 1);
	if (text)
		n = pread(fd, text, GRANT_BYTES + 1, 0);
	if (n < 0 || n > GRANT_BYTES || fstat(fd, &st) < 0 || memchr(text, 0, (size_t)n)) {
		err = -EBADMSG;
	} else {
		text[n] = '\0';
		err = parse(text, site, &job, ret_grant);
		if (!err && !is_fresh(site, st.st_mtim.tv_sec, job))
			err = -ENOENT;
	}
	if (!err) {
		futimens(fd, times);
		leave_lease(site, image);
	}
	free(text);
	close(fd);
	return err;
}
