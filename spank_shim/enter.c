/* SPDX-License-Identifier: Apache-2.0
 *
 * fairlead-enter: what each task of a step becomes for a moment, between slurmstepd and the application. It joins the
 * step's container, drops what the application must not have and executes it. Linked statically: with --multi-prog on
 * old Slurm it starts inside the image, whose C library may be any.
 *
 *   _FAIRLEAD_ENTER=N:N:N:N:N:N   inherited descriptors in the order of enum channel_fd; -1: none, or joined already
 *   _FAIRLEAD_COMMAND=WORD               the command, where Slurm could only replace argv[0] */
#include "old_headers.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block.h"
#include "channel.h"
#include "exec.h"
#include "namespace.h"
#include "seal.h"

static _Noreturn void refuse(const char *line, int status)
{
	dprintf(STDERR_FILENO, "fairlead: %s\n", line);
	_exit(status);
}

static _Noreturn void refuse_report(const struct report *report)
{
	char line[1600];
	int status = exec_describe(report, line, sizeof(line));

	refuse(report_printable(line), status);
}

static void *map_block(int fd, size_t *ret_size)
{
	struct stat st;
	void *block;

	if (fstat(fd, &st) < 0 || st.st_size <= 0 || st.st_size > BLOCK_MAX_SIZE)
		return NULL;
	block = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	*ret_size = (size_t)st.st_size;
	return block == MAP_FAILED ? NULL : block;
}

/* The directory of a container that is to be saved in the end (OP_UPPER), or NULL. */
static const char *place_to_save(const void *block, size_t size)
{
	struct block_cursor cursor;
	struct block_record record;

	if (block_open(&cursor, block, size) < 0)
		return NULL;
	while (block_next(&cursor, &record))
		if (record.op == OP_UPPER && record.count > 3)
			return record.string[1];
	return NULL;
}

/* Of a step whose container is to be saved the first task of the first node is a child of the process that saves: that
 * is one of the step's, so that Slurm's signals, limits and output are its own, and its status is the task's. Returns in
 * the child. */
static void stay_to_save(const char *place)
{
	static const int ignored[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM };
	const char *task = getenv("SLURM_LOCALID"), *node = getenv("SLURM_NODEID");
	const char *argv[] = { FAIRLEAD_PREFIX "/venv/bin/python", "-I", "-m", "fairlead.run.saver", place, NULL, NULL };
	char number[16];
	int status = 0;
	pid_t child;

	if (!task || !node || strcmp(task, "0") != 0 || strcmp(node, "0") != 0)
		return;
	child = fork();
	if (child < 0)
		refuse("error [slurm]: the process that saves the container cannot be started", 125);
	if (child == 0)
		return;
	for (size_t i = 0; i < sizeof(ignored) / sizeof(*ignored); i++)
		signal(ignored[i], SIG_IGN);
	/* The namespaces end with the tasks, and PMI must see its connection end. */
	syscall(SYS_close_range, 3, ~0U, 0);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	snprintf(number, sizeof(number), "%d", WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
	argv[5] = number;
	/* The job's names libraries for the job. */
	for (char **at = environ; at && *at; at++)
		while (*at && strncmp(*at, "LD_", 3) == 0)
			for (char **next = at; *next; next++)
				*next = next[1];
	execv(argv[0], (char *const *)argv);
	refuse("error [slurm]: the container cannot be saved: the engine does not start", 125);
}

/* Nobody signals, limits or reaps the tasks of a slurmstepd that was killed, and Slurm gives their node to other jobs. The
 * plugin has asked for the same; the namespaces took it back, as every gain of a capability does. */
static void die_with(pid_t parent)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
		refuse("error [slurm]: slurmstepd has ended", 125);
}

int main(int argc, char *argv[])
{
	const char *numbers = getenv("_FAIRLEAD_ENTER"), *command = getenv("_FAIRLEAD_COMMAND"), *opened, *place;
	int fds[CHANNEL_FDS];
	struct report report = { 0 };
	size_t size;
	void *block;
	pid_t parent;

	if (!numbers || sscanf(numbers, "%d:%d:%d:%d:%d:%d", &fds[0], &fds[1], &fds[2], &fds[3], &fds[4], &fds[5]) != CHANNEL_FDS)
		refuse("error [slurm]: fairlead-enter is started by the Slurm plugin only (use fairlead run)", 125);
	block = map_block(fds[CHANNEL_BLOCK], &size);
	if (!block)
		refuse("error [slurm]: the step's launch block cannot be read", 125);
	place = place_to_save(block, size);
	if (place)
		stay_to_save(place);
	parent = getppid();
	if (fds[CHANNEL_USERNS] >= 0 && (namespace_join(fds[CHANNEL_USERNS], fds[CHANNEL_MNTNS], &report) < 0 ||
					 namespace_join_further(fds, &report) < 0))
		refuse_report(&report);
	die_with(parent);

	/* Slurm 23.02.5 and later put us before the words; older ones replaced the first word by us. */
	if (command) {
		argv[0] = strdup(command);
	} else {
		argv++;
		argc--;
	}
	if (argc > 1 && strcmp(argv[0], SEAL_PROGRAM) == 0)
		argv++;
	opened = argv[0] ? seal_open(argv[0]) : NULL;
	if (opened)
		argv[0] = (char *)opened;
	unsetenv("_FAIRLEAD_ENTER");
	unsetenv("_FAIRLEAD_COMMAND");
	exec_run(block, size, argv, &report);
	refuse_report(&report);
}
