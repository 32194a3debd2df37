/* SPDX-License-Identifier: Apache-2.0 */
#include "step_end.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "slurm_api.h"

#define LET_END_MS 1000
#define LET_YIELD_MS 5000

static const char *const places[] = { "/usr/bin/scancel", "/usr/local/bin/scancel", "/opt/slurm/bin/scancel" };

static _Noreturn void cancel(const char *const argv[], char *const environment[])
{
	/* Another node may have ended it before: scancel would add a line to the one that says what is wrong. */
	dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
	for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++)
		execve(places[i], (char *const *)argv, environment);
	_exit(127);
}

/* One node failed: the others would wait for its ranks in MPI_Init for ever. scancel, because libslurm's calls are not
 * safe in a process forked from a threaded one. */
void step_end(spank_t spank, uint32_t nodes, uint32_t job, uint32_t number)
{
	char **environment = NULL, step[64];
	const char *argv[] = { "scancel", "--quiet", "--signal=TERM", step, NULL };
	pid_t child;

	if (nodes < 2 || number >= STEP_INTERACTIVE ||
	    spank_get_item(spank, S_JOB_ENV, &environment) != ESPANK_SUCCESS)
		return;
	snprintf(step, sizeof(step), "%u.%u", job, number);
	child = fork();
	if (child == 0)
		cancel(argv, environment);
	while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
}

/* Whether slurmstepd, and with it the step, has gone within a time. */
static int has_ended(int stepd, int within_ms)
{
	struct pollfd ended = { .fd = stepd, .events = POLLIN };

	return poll(&ended, 1, within_ms) > 0;
}

/* As the user. The ranks that have lost their world end by themselves with their status; others wait in MPI_Init or in a
 * collective call, maybe deaf to SIGTERM. */
static _Noreturn void end_in_steps(int stepd, const char *step, char *const environment[])
{
	const char *asks[] = { "scancel", "--quiet", "--signal=TERM", step, NULL };
	const char *kills[] = { "scancel", "--quiet", step, NULL };
	pid_t child;

	if (has_ended(stepd, LET_END_MS))
		_exit(0);
	child = fork();
	if (child == 0)
		cancel(asks, environment);
	while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
	if (has_ended(stepd, LET_YIELD_MS))
		_exit(0);
	cancel(kills, environment);
}

/* The process between is waited for, since slurmstepd waits for all its children; the one that works is init's. */
void step_end_by_daemon(uid_t uid, gid_t gid, uint32_t job, uint32_t number)
{
	char step[64], conf[4096];
	const char *set = getenv("SLURM_CONF");
	char *environment[] = { (char *)"PATH=/usr/bin:/bin", set ? conf : NULL, NULL };
	pid_t stepd = getpid(), child;

	if (uid == 0 || number >= STEP_INTERACTIVE)
		return;
	snprintf(step, sizeof(step), "%u.%u", job, number);
	snprintf(conf, sizeof(conf), "SLURM_CONF=%s", set ? set : "");
	child = fork();
	if (child == 0) {
		if (fork() != 0)
			_exit(0);
		prctl(PR_SET_NAME, "fairlead-end");
		/* System calls, not libc's functions, which talk to threads that this process no longer has. */
		if (syscall(SYS_setgroups, 0, NULL) == 0 && syscall(SYS_setresgid, gid, gid, gid) == 0 &&
		    syscall(SYS_setresuid, uid, uid, uid) == 0)
			end_in_steps((int)syscall(SYS_pidfd_open, stepd, 0), step, environment);
		_exit(127);
	}
	while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
}
