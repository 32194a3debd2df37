/* SPDX-License-Identifier: Apache-2.0 */
#include "exec.h"

#include "old_headers.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block.h"
#include "plan_expand.h"
#include "program.h"

#define MAX_ARGUMENTS 128 /* entrypoint words */

int exec_workdir(const char *path, struct report *report)
{
	char cwd[PATH_MAX];

	if (chdir(path) < 0)
		return report_set(report, STEP_WORKDIR, errno, path);
	/* The system call, not getcwd(3): it says "(unreachable)" instead of failing. */
	if (syscall(SYS_getcwd, cwd, sizeof(cwd)) < 0 || cwd[0] != '/' || strncmp(cwd, "/proc/", 6) == 0)
		return report_set(report, STEP_WORKDIR, EXDEV, path);
	return 0;
}

static int is_executable(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || access(path, X_OK) < 0)
		return -EACCES;
	return 0;
}

int exec_find(const char *command, const char *path_variable, char *ret_path, size_t size)
{
	const char *at = path_variable;
	int denied = 0, err;
	size_t len;

	if (strchr(command, '/')) {
		if ((size_t)snprintf(ret_path, size, "%s", command) >= size)
			return -ENAMETOOLONG;
		return is_executable(command);
	}
	while (*command && *at) {
		len = strcspn(at, ":");
		/* An empty element would mean the working directory: surprising, and never wanted in a container. */
		if (len && (size_t)snprintf(ret_path, size, "%.*s/%s", (int)len, at, command) < size) {
			err = is_executable(ret_path);
			if (!err)
				return 0;
			denied |= err == -EACCES;
		}
		at += len + (at[len] == ':');
	}
	return denied ? -EACCES : -ENOENT;
}

int exec_check(const void *block, size_t size, struct report *report)
{
	struct block_cursor cursor;
	struct block_record record;
	char path[PATH_MAX];
	int err;

	if (block_open(&cursor, block, size) < 0)
		return report_set(report, STEP_BLOCK, EBADMSG, "launch block");
	while (block_next(&cursor, &record)) {
		err = 0;
		if (record.op == OP_WORKDIR)
			err = exec_workdir(record.string[0], report);
		if (err < 0)
			return err;
	}
	block_open(&cursor, block, size);
	while (block_next(&cursor, &record)) {
		if (record.op != OP_COMMAND)
			continue;
		err = exec_find(record.string[0], record.string[1], path, sizeof(path));
		if (!err)
			err = program_check(path);
		if (err < 0)
			return report_set(report, STEP_COMMAND, -err, record.string[0]);
	}
	return 0;
}

int exec_drop_privileges(struct report *report)
{
	int held;

	for (unsigned long cap = 0; (held = prctl(PR_CAPBSET_READ, cap, 0, 0, 0)) >= 0; cap++)
		if (held && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return report_set(report, STEP_PRIVILEGE, errno, "bounding set");
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return report_set(report, STEP_PRIVILEGE, errno, "ambient set");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return report_set(report, STEP_PRIVILEGE, errno, "no_new_privs");
	return 0;
}

/* Descriptors above 2 are ours or slurmstepd's, except PMI-2's connection to the launcher, which is a socket. */
static int close_descriptors(struct report *report)
{
	const char *text = getenv("PMI_FD");
	long pmi = text ? strtol(text, NULL, 10) : -1;
	unsigned int from = 3;
	struct stat st;
	int err = 0;

	if (pmi >= 3 && pmi <= INT_MAX && fstat((int)pmi, &st) == 0 && S_ISSOCK(st.st_mode)) {
		if (pmi > 3)
			err = (int)syscall(SYS_close_range, 3, (unsigned int)pmi - 1, 0);
		from = (unsigned int)pmi + 1;
	}
	if (err < 0 || syscall(SYS_close_range, from, ~0U, 0) < 0)
		return report_set(report, STEP_PRIVILEGE, errno, "close_range");
	return 0;
}

int exec_environment(const void *block, size_t size, struct report *report)
{
	struct block_cursor cursor;
	struct block_record record;
	char text[PATH_MAX];

	if (block_open(&cursor, block, size) < 0)
		return report_set(report, STEP_BLOCK, EBADMSG, "launch block");
	while (block_next(&cursor, &record)) {
		if (record.op == OP_ENV_SET && setenv(record.string[0], record.string[1], 1) < 0)
			return report_set(report, STEP_BLOCK, errno, record.string[0]);
		if (record.op == OP_ENV_UNSET)
			unsetenv(record.string[0]);
		/* The task's own numbers stand in variables that no record changes. */
		if (record.op == OP_ENV_TASK && plan_expand_text(record.string[1], environ, text, sizeof(text)) == 0 &&
		    setenv(record.string[0], text, 1) < 0)
			return report_set(report, STEP_BLOCK, errno, record.string[0]);
	}
	return 0;
}

/* Go to the block's directory; collects the entrypoint's words in argv. */
static int apply(const void *block, size_t size, const char **argv, unsigned int *argc, struct report *report)
{
	struct block_cursor cursor;
	struct block_record record;
	int err;

	if (block_open(&cursor, block, size) < 0)
		return report_set(report, STEP_BLOCK, EBADMSG, "launch block");
	while (block_next(&cursor, &record)) {
		err = 0;
		if (record.op == OP_WORKDIR)
			err = exec_workdir(record.string[0], report);
		else if (record.op == OP_ARGUMENT && *argc == MAX_ARGUMENTS)
			err = report_set(report, STEP_COMMAND, E2BIG, "entrypoint");
		else if (record.op == OP_ARGUMENT)
			argv[(*argc)++] = record.string[0];
		if (err < 0)
			return err;
	}
	return 0;
}

int exec_run(const void *block, size_t size, char *const argv[], struct report *report)
{
	const char *entrypoint[MAX_ARGUMENTS], **all, *path_variable;
	unsigned int prefix = 0, count = 0;
	char path[PATH_MAX];
	int err;

	err = apply(block, size, entrypoint, &prefix, report);
	if (!err)
		err = exec_environment(block, size, report);
	if (err < 0)
		return err;
	while (argv[count])
		count++;
	if (prefix + count == 0)
		return report_set(report, STEP_COMMAND, EINVAL, "");
	all = calloc(prefix + count + 1, sizeof(*all));
	if (!all)
		return report_set(report, STEP_COMMAND, ENOMEM, "");
	memcpy(all, entrypoint, prefix * sizeof(*all));
	memcpy(all + prefix, argv, count * sizeof(*all));
	path_variable = getenv("PATH");
	err = exec_find(all[0], path_variable ? path_variable : "", path, sizeof(path));
	if (err < 0) {
		report_set(report, STEP_COMMAND, -err, all[0]);
		free(all);
		return err;
	}
	err = exec_drop_privileges(report);
	if (!err)
		err = close_descriptors(report);
	if (!err) {
		execve(path, (char *const *)all, environ);
		err = report_set(report, STEP_COMMAND, errno == ENOENT ? ENOEXEC : errno, path);
	}
	free(all);
	return err;
}

/* A file that exists and cannot be executed: usually a script whose interpreter the image lacks. */
static const char *why_not_executable(const char *path, int err, char *ret, size_t size)
{
	char head[128] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t n = fd < 0 ? -1 : read(fd, head, sizeof(head) - 1);

	if (fd >= 0)
		close(fd);
	if (err == ENOEXEC && n > 2 && head[0] == '#' && head[1] == '!') {
		head[strcspn(head, "\n")] = '\0';
		for (char *c = head; *c; c++)
			if ((unsigned char)*c < ' ')
				*c = ' ';
		snprintf(ret, size, "its interpreter does not exist in the image: %s", head + 2);
		return ret;
	}
	if (err == ENOEXEC)
		return "it is no program for this machine, or its ELF interpreter does not exist in the image";
	return strerror(err);
}

int exec_describe(const struct report *report, char *ret_line, size_t size)
{
	char reason[256];

	if (report->step == STEP_COMMAND && report->err == ENOENT) {
		snprintf(ret_line, size,
			 "error [command-not-found]: %s: not found in the container "
			 "(check the spelling and the image's PATH)", report->detail);
		return 127;
	}
	if (report->step == STEP_COMMAND) {
		snprintf(ret_line, size,
			 "error [command-not-executable]: %s: %s (check its permissions, its interpreter line and the "
			 "machine it was built for)", report->detail,
			 why_not_executable(report->detail, report->err, reason, sizeof(reason)));
		return 126;
	}
	if (report->step == STEP_WORKDIR) {
		snprintf(ret_line, size,
			 "error [workdir]: %s: %s (choose another with --container-workdir)", report->detail,
			 report->err == EXDEV ? "lies outside the container" : strerror(report->err));
		return 125;
	}
	snprintf(ret_line, size, "error [namespace]: cannot enter the container: %s: %s", report->detail,
		 strerror(report->err));
	return 125;
}
