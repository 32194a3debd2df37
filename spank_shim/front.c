/* SPDX-License-Identifier: Apache-2.0
 *
 * The command `fairlead`: runs what `fairlead run` decided before without starting Python, and is Python's command line
 * for everything else. A static program, which starts in half a millisecond.
 *
 * A launch is the same when its words, its directory, this user and this node are (plan_key.h), and what the plan was
 * made from is (plan_check.h). Options are not parsed here: the entry holds the command's words. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block.h"
#include "exec.h"
#include "namespace.h"
#include "plan_build.h"
#include "plan_cache.h"
#include "plan_key.h"

#ifndef FAIRLEAD_PREFIX
#define FAIRLEAD_PREFIX "/opt/fairlead"
#endif

#define PYTHON FAIRLEAD_PREFIX "/venv/bin/python"
#define SCRIPT FAIRLEAD_PREFIX "/venv/bin/fairlead"

/* Whether these words may name a launch whose plan is kept: `run` with a digest or an environment file somewhere; the
 * engine looks closer. */
static int may_be_kept(int argc, char *argv[])
{
	int frozen = 0;

	for (int i = 2; i < argc; i++)
		frozen |= strstr(argv[i], "@sha") || strstr(argv[i], ".toml") || strstr(argv[i], "edf:") ||
			  strncmp(argv[i], "--e", 3) == 0; /* --environment, --edf, or an abbreviation */
	return argc > 2 && strcmp(argv[1], "run") == 0 && frozen && geteuid() != 0 && plan_key_wanted(environ);
}

/* The key, which the caller frees, or NULL. */
static char *make_key(char *argv[], size_t *ret_size)
{
	char *key = NULL, cwd[PATH_MAX];
	FILE *out;
	int err;

	if (!getcwd(cwd, sizeof(cwd)) || cwd[0] != '/')
		return NULL;
	out = open_memstream(&key, ret_size);
	if (!out)
		return NULL;
	fprintf(out, "door=run%ccwd=%s%c", 0, cwd, 0);
	for (char **word = argv + 1; *word; word++)
		fprintf(out, "word=%s%c", *word, 0);
	err = plan_key_add(out, FAIRLEAD_PREFIX, environ);
	if (fclose(out) != 0 || err) {
		free(key);
		return NULL;
	}
	return key;
}

/* The command's words, NULL-terminated and allocated; they point into the plan. */
static char **words_of(const struct plan *plan)
{
	struct block_cursor cursor;
	struct block_record record;
	size_t count = 0;
	char **words;

	block_open(&cursor, plan->entry_block, plan->entry_block_size);
	words = calloc((size_t)cursor.left + 1, sizeof(*words));
	while (words && block_next(&cursor, &record))
		if (record.op == OP_WORD)
			words[count++] = (char *)record.string[0];
	return words;
}

static _Noreturn void become(const struct plan *plan, char **words)
{
	struct report report = { 0 };
	char line[1600];
	int status;

	plan_cache_tell(plan, STDERR_FILENO);
	/* As after Python's launch, which resets them because Python ignores them. */
	signal(SIGPIPE, SIG_DFL);
	signal(SIGXFSZ, SIG_DFL);
	exec_run(plan->block, plan->block_size, words, &report);
	status = exec_describe(&report, line, sizeof(line));
	dprintf(STDERR_FILENO, "fairlead: %s\n", report_printable(line));
	_exit(status);
}

/* Become the command, if there is a plan and it can be built; returns if Python has to do it. */
static void try_plan(const char *key, size_t key_size)
{
	char directory[PLAN_DIRECTORY_SIZE], **words;
	int fds[CHANNEL_FDS], err = -ENOTSUP;
	struct report report;
	struct plan plan;

	plan_cache_directory(directory);
	if (plan_cache_find(directory, key, key_size, environ, &plan) < 0)
		return;
	words = words_of(&plan);
	if (words && !plan.image && !plan.upper) /* those are the broker's */
		err = plan_build(&plan, NULL, 0, fds);
	/* One step or none: who is in the user namespace and not in the mount namespace could not go back. */
	if (!err && (namespace_join(fds[CHANNEL_USERNS], fds[CHANNEL_MNTNS], &report) < 0 ||
		     namespace_join_further(fds, &report) < 0)) {
		dprintf(STDERR_FILENO, "fairlead: error [namespace]: cannot enter the container: %s: %s\n", report.detail,
			strerror(report.err));
		_exit(125);
	}
	if (!err)
		become(&plan, words);
	plan_cache_forget(directory, key, key_size);
	free(words);
	plan_cache_release(&plan);
}

/* Where Python finds the key under which it may keep its plan: an inherited memory file. Without one it keeps none. */
static void leave_key(const char *key, size_t key_size)
{
	int fd = memfd_create("fairlead-key", 0);
	char number[16];

	if (fd < 0)
		return;
	if (write(fd, key, key_size) == (ssize_t)key_size && lseek(fd, 0, SEEK_SET) == 0) {
		snprintf(number, sizeof(number), "%d", fd);
		setenv("_FAIRLEAD_KEY", number, 1);
	} else {
		close(fd);
	}
}

int main(int argc, char *argv[])
{
	const char **words = calloc((size_t)argc + 3, sizeof(*words));
	size_t key_size = 0;
	char *key = NULL;

	unsetenv("_FAIRLEAD_KEY");
	if (may_be_kept(argc, argv))
		key = make_key(argv, &key_size);
	if (key) {
		try_plan(key, key_size);
		leave_key(key, key_size);
	}
	if (!words) {
		dprintf(STDERR_FILENO, "fairlead: error [fairlead]: out of memory\n");
		return 125;
	}
	words[0] = PYTHON;
	words[1] = "-I";
	words[2] = SCRIPT;
	for (int i = 1; i < argc; i++)
		words[2 + i] = argv[i];
	execv(PYTHON, (char *const *)words);
	dprintf(STDERR_FILENO, "fairlead: error [fairlead]: %s: %s (check the installation on this node)\n", PYTHON,
		strerror(errno));
	return 125;
}
