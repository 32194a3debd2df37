/* SPDX-License-Identifier: Apache-2.0 */
#include "broker_room.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define SITE_FILE "/etc/fairlead/fairlead.toml"
#define DROP_INS "/etc/fairlead/fairlead.d"
#define SITE_FILE_BYTES 65536
#define ROOM_DEFAULT "10%"
#define ROOM_LEAST (8u << 20) /* below, the file system's own needs are more than a tenth */
#define BLOCK 4096u

/* A size as engine/fairlead/config.py knows it: a whole number with K, M, G, T, or % of whole. */
static int parse_size(const char *text, uint64_t whole, uint64_t *ret)
{
	static const char units[] = "KMGT";
	size_t digits = strspn(text, "0123456789");
	const char *unit = text + digits, *found;
	uint64_t number;

	if (!digits || digits > 15 || (*unit && unit[1]))
		return -EINVAL;
	number = strtoull(text, NULL, 10);
	if (*unit == '%') {
		if (number > 100)
			return -EINVAL;
		*ret = whole / 100 * number;
		return 0;
	}
	found = *unit ? strchr(units, *unit) : NULL;
	if (*unit && !found)
		return -EINVAL;
	for (long shift = found ? found - units + 1 : 0; shift > 0; shift--)
		if (__builtin_mul_overflow(number, (uint64_t)1024, &number))
			return -EINVAL;
	*ret = number;
	return 0;
}

/* The value of a line `KEY = "VALUE"`, in place: 1, 0 if the line is about something else, -EINVAL if it is another form
 * of TOML, which only the engine reads. */
static int line_value(char *line, const char *key, char **ret)
{
	char *at = line + strspn(line, " \t"), quote;

	if (strncmp(at, key, strlen(key)) != 0)
		return 0;
	at += strlen(key);
	at += strspn(at, " \t");
	if (*at != '=')
		return 0;
	at += 1 + strspn(at + 1, " \t");
	quote = *at;
	*ret = at + 1;
	at = quote == '"' || quote == '\'' ? strchr(*ret, quote) : NULL;
	if (!at)
		return -EINVAL;
	*at = '\0';
	at += 1 + strspn(at + 1, " \t\r");
	return *at && *at != '#' ? -EINVAL : 1;
}

static int find_setting(char *text, uint64_t total, uint64_t *ret)
{
	char *rest = text, *line, *value;
	int found;

	while ((line = strsep(&rest, "\n"))) {
		found = line_value(line, "store_min_free", &value);
		if (found < 0)
			return found;
		if (found && *value)
			return parse_size(value, total, ret);
		if (found) {
			*ret = 0;
			return 0;
		}
	}
	return 0;
}

/* store_min_free of one file; ret stays as it is without one. A file that cannot be read or understood is an error: the
 * administrator's word may be in it. */
static int file_min_free(const char *path, uint64_t total, uint64_t *ret)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), err;
	ssize_t n = -1;
	char *text;

	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
	text = malloc(SITE_FILE_BYTES + 1);
	if (text)
		n = read(fd, text, SITE_FILE_BYTES + 1);
	close(fd);
	err = n < 0 || n > SITE_FILE_BYTES ? -EINVAL : 0;
	if (!err) {
		text[n] = '\0';
		err = find_setting(text, total, ret);
	}
	free(text);
	return err;
}

static int is_toml(const struct dirent *entry)
{
	const char *dot = strrchr(entry->d_name, '.');

	return dot && strcmp(dot, ".toml") == 0;
}

static int by_name(const struct dirent **one, const struct dirent **other)
{
	return strcmp((*one)->d_name, (*other)->d_name);
}

/* store_min_free of the site's settings, the file's and its drop-ins' by name; the last one counts. */
static int site_min_free(uint64_t total, uint64_t *ret, char *ret_path, size_t size)
{
	struct dirent **names = NULL;
	int err, count;

	snprintf(ret_path, size, "%s", SITE_FILE);
	err = file_min_free(SITE_FILE, total, ret);
	if (err)
		return err;
	count = scandir(DROP_INS, &names, is_toml, by_name);
	if (count < 0 && errno != ENOENT && errno != ENOTDIR) {
		err = -errno;
		snprintf(ret_path, size, "%s", DROP_INS);
	}
	for (int i = 0; i < count; i++) {
		if (!err) {
			snprintf(ret_path, size, "%s/%s", DROP_INS, names[i]->d_name);
			err = file_min_free(ret_path, total, ret);
		}
		free(names[i]);
	}
	free(names);
	return err;
}

static uint64_t mebibytes(uint64_t bytes)
{
	return bytes >> 20;
}

int room_for_upper(int store, const char *wanted, const char *max, uint64_t *ret_bytes, char *ret_detail,
		   unsigned int size)
{
	uint64_t total, kept, free_bytes, limit, bytes;
	char path[sizeof(DROP_INS) + NAME_MAX + 1];
	struct statvfs found;

	snprintf(ret_detail, size, "room on the shared store's disk");
	if (fstatvfs(store, &found) < 0)
		return -errno;
	total = (uint64_t)found.f_blocks * found.f_frsize;
	free_bytes = (uint64_t)found.f_bavail * found.f_frsize;
	kept = 0;
	if (site_min_free(total, &kept, path, sizeof(path)) < 0) {
		snprintf(ret_detail, size, "%s: store_min_free is no size in one plain line", path);
		return -EINVAL;
	}
	kept = kept > total / 100 ? kept : total / 100;
	free_bytes = free_bytes > kept ? free_bytes - kept : 0;
	if (parse_size(max, free_bytes, &limit) < 0) {
		snprintf(ret_detail, size, "plugstack.conf: upper_max=%.64s is no size", max);
		return -EINVAL;
	}
	if (parse_size(*wanted ? wanted : ROOM_DEFAULT, free_bytes, &bytes) < 0) {
		snprintf(ret_detail, size, "size %.64s", wanted);
		return -EINVAL;
	}
	if (!*wanted && bytes > limit)
		bytes = limit;
	if (bytes < ROOM_LEAST && *wanted && bytes <= free_bytes) {
		snprintf(ret_detail, size, "size %.64s: at least %u MiB", wanted, ROOM_LEAST >> 20);
		return -EINVAL;
	}
	if (bytes > free_bytes || free_bytes < ROOM_LEAST) {
		snprintf(ret_detail, size, "needs %ju MiB, %ju MiB free above the %ju that must stay",
			 mebibytes(bytes < ROOM_LEAST ? ROOM_LEAST : bytes), mebibytes(free_bytes), mebibytes(kept));
		return -ENOSPC;
	}
	if (bytes > limit || bytes < ROOM_LEAST) {
		snprintf(ret_detail, size, "needs %ju MiB, this site allows %ju MiB (upper_max=%.64s, %ju MiB free)",
			 mebibytes(bytes < ROOM_LEAST ? ROOM_LEAST : bytes), mebibytes(limit), max, mebibytes(free_bytes));
		return -EDQUOT;
	}
	*ret_bytes = bytes & ~(uint64_t)(BLOCK - 1);
	return 0;
}
