/* SPDX-License-Identifier: Apache-2.0 */
#include "broker_start.h"

#include "old_headers.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SOCKET_FD = 3, LIFE_FD = 4 };

/* In a child of a process with threads: system calls only. */
static _Noreturn void become_broker(const char *const argv[], int socket, int life)
{
	static const char *const environment[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL };
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	if (fork() != 0)
		_exit(0);
	socket = fcntl(socket, F_DUPFD, 10);
	life = fcntl(life, F_DUPFD, 10);
	if (socket < 0 || life < 0 || dup2(socket, SOCKET_FD) < 0 || dup2(life, LIFE_FD) < 0 ||
	    syscall(SYS_close_range, LIFE_FD + 1, ~0U, 0) < 0)
		_exit(125);
	execve(argv[0], (char *const *)argv, (char *const *)environment);
	_exit(126);
}

int broker_start(const struct broker_request_for *request)
{
	char program[4096], uid[16], gid[16], job[16], grace[16];
	const char *argv[] = { program, request->store, uid, gid, job, grace, request->prefix,
			       request->upper_max, NULL };
	int pair[2], life, err = 0;
	pid_t child;

	snprintf(program, sizeof(program), "%s/libexec/fairlead/fairlead-broker", request->prefix);
	snprintf(uid, sizeof(uid), "%u", request->uid);
	snprintf(gid, sizeof(gid), "%u", request->gid);
	snprintf(job, sizeof(job), "%u", request->job);
	snprintf(grace, sizeof(grace), "%u", request->grace_s);
	if (access(program, X_OK) < 0)
		return -errno;
	/* Nobody's child hears of nobody's death: by this descriptor the broker learns of slurmstepd's. */
	life = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (life < 0)
		return -errno;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		err = -errno;
		close(life);
		return err;
	}
	child = fork();
	if (child == 0)
		become_broker(argv, pair[1], life);
	err = child < 0 ? -errno : 0;
	close(pair[1]);
	close(life);
	while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
	if (err) {
		close(pair[0]);
		return err;
	}
	return pair[0];
}
