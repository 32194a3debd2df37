/* SPDX-License-Identifier: Apache-2.0 */
#include "step_end.h"

#include "old_headers.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "slurm_api.h"

#define CANCEL_S 20
#define LET_END_MS 1000
#define LET_YIELD_MS 5000

static const char *const places[] = { "/usr/bin/scancel", "/usr/local/bin/scancel", "/opt/slurm/bin/scancel" };

static _Noreturn void cancel(const char *const argv[], char *const environment[])
{
	/* Another node may have ended it before: scancel would add a line to the one that says what is wrong. */
	dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
	signal(SIGALRM, SIG_DFL);
	alarm(CANCEL_S); /* for a slurmctld that does not answer */
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

/* Whether slurmstepd has gone within a time, and with it the step; -1: it has other nodes, so that this one's end says
 * nothing, and all of the time is let go by. */
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

/* cgroup v2: what stays in slurmstepd's group keeps it, and the job's, from being removed. Elsewhere there is no such
 * file, and the tracker ends this process with the step. */
static void leave_cgroup(void)
{
	int fd = open("/sys/fs/cgroup/cgroup.procs", O_WRONLY | O_CLOEXEC);

	if (fd >= 0 && write(fd, "0", 1) < 0)
		errno = 0; /* the worst of it is a directory that stays */
	if (fd >= 0)
		close(fd);
}

/* In the process that works, with system calls rather than libc's functions, which talk to threads that it no longer has:
 * keep nothing of slurmstepd's, and become the user for good. Returns a descriptor that tells slurmstepd's end. */
static int become_user(pid_t stepd, uid_t uid, gid_t gid)
{
	int life = (int)syscall(SYS_pidfd_open, stepd, 0), null = open("/dev/null", O_RDWR);
	sigset_t none;

	leave_cgroup();
	life = life < 0 ? -1 : fcntl(life, F_DUPFD_CLOEXEC, 10);
	if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0 ||
	    (life >= 0 && dup3(life, 3, O_CLOEXEC) < 0) || syscall(SYS_close_range, life >= 0 ? 4 : 3, ~0U, 0) < 0)
		_exit(127);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, gid, gid, gid) < 0 ||
	    syscall(SYS_setresuid, uid, uid, uid) < 0 || geteuid() != uid || getegid() != gid ||
	    syscall(SYS_setresuid, -1, 0, -1) == 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		_exit(127);
	return life >= 0 ? 3 : -1;
}

/* The process between is waited for, since slurmstepd waits for all its children; the one that works is init's. */
void step_end_by_daemon(uid_t uid, gid_t gid, uint32_t nodes, uint32_t job, uint32_t number)
{
	char step[64], conf[4096];
	const char *set = getenv("SLURM_CONF");
	char *environment[] = { (char *)"PATH=/usr/bin:/bin", set ? conf : NULL, NULL };
	pid_t stepd = getpid(), child;
	int life;

	if (uid == 0 || number >= STEP_INTERACTIVE)
		return;
	snprintf(step, sizeof(step), "%u.%u", job, number);
	snprintf(conf, sizeof(conf), "SLURM_CONF=%s", set ? set : "");
	child = fork();
	if (child == 0) {
		if (fork() != 0)
			_exit(0);
		prctl(PR_SET_NAME, "fairlead-end");
		life = become_user(stepd, uid, gid);
		end_in_steps(nodes < 2 ? life : -1, step, environment);
	}
	while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
}
