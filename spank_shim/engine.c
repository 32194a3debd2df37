/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine is a child of the elected task: in the job's cgroup, killed with it, waited for. It gets a clean
 * environment, because the job's may name libraries and start-up files that would break an interpreter; the job's
 * environment travels as data. The interpreter is named by its absolute path and isolated (-I -S). */
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436 /* Linux 5.9; glibc 2.31 has no name for it; the same number on every architecture */
#endif

enum { SOCKET_FD = 3, REQUEST_FD = 4, BROKER_FD = 5, MAX_ENVIRONMENT = 128 };

/* Of the job's environment the engine itself needs these: whose credentials, which proxy, which certificates. */
static const char *const kept[] = {
	"HOME=", "USER=", "LOGNAME=", "XDG_CONFIG_HOME=", "XDG_RUNTIME_DIR=", "DOCKER_CONFIG=", "REGISTRY_AUTH_FILE=",
	"SSL_CERT_FILE=", "SSL_CERT_DIR=", "HTTP_PROXY=", "HTTPS_PROXY=", "NO_PROXY=", "ALL_PROXY=", "http_proxy=",
	"https_proxy=", "no_proxy=", "all_proxy=", "FAIRLEAD_",
};

static void fail(struct channel_message *message, const char *what, int err)
{
	message->status = 125;
	snprintf(message->text, sizeof(message->text),
		 "error [slurm]: cannot start the engine: %s: %s (check the installation on this node)", what,
		 strerror(err));
}

static int write_all(int fd, const void *data, size_t size)
{
	const char *at = data;
	ssize_t n;

	while (size) {
		n = write(fd, at, size);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			at += n;
			size -= (size_t)n;
		}
	}
	return 0;
}

/* The request as a memory file, so that neither side can block on the other. */
static int request_file(const struct engine_request *request)
{
	int fd = memfd_create("fairlead-request", MFD_CLOEXEC);
	int err = 0;

	if (fd < 0)
		return -errno;
	err = write_all(fd, request->facts, request->facts_size);
	if (!err)
		err = write_all(fd, "", 1);
	for (char **entry = request->environment; !err && *entry; entry++)
		err = write_all(fd, *entry, strlen(*entry) + 1);
	if (!err && lseek(fd, 0, SEEK_SET) < 0)
		err = -errno;
	if (err) {
		close(fd);
		return err;
	}
	return fd;
}

static void choose_environment(char **job, const char *ret[MAX_ENVIRONMENT])
{
	size_t count = 0;

	ret[count++] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	ret[count++] = "LANG=C.UTF-8";
	for (; *job && count < MAX_ENVIRONMENT - 1; job++)
		for (size_t i = 0; i < sizeof(kept) / sizeof(*kept); i++)
			if (strncmp(*job, kept[i], strlen(kept[i])) == 0) {
				ret[count++] = *job;
				break;
			}
	ret[count] = NULL;
}

/* In the child; only system calls from here on, since slurmstepd had threads when it forked the task. */
static _Noreturn void become_engine(const char *python, const char *script, const char **environment, int socket,
				    int request, int broker, pid_t parent)
{
	const char *argv[] = { python, "-I", "-S", script, NULL };
	cpu_set_t all;
	int null;

	/* The task's own affinity may be one core; unpacking wants all that the cgroup allows. */
	memset(&all, 0xff, sizeof(all));
	sched_setaffinity(0, sizeof(all), &all);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		_exit(125);
	null = open("/dev/null", O_RDONLY);
	if (null >= 0)
		dup2(null, 0);
	/* Out of the way first: each may be the number that the other must have. */
	socket = fcntl(socket, F_DUPFD, 10);
	request = fcntl(request, F_DUPFD, 10);
	if (broker >= 0)
		broker = fcntl(broker, F_DUPFD, 10);
	if (socket < 0 || request < 0 || dup2(socket, SOCKET_FD) < 0 || dup2(request, REQUEST_FD) < 0)
		_exit(125);
	dup2(2, 1);
	if ((broker >= 0 && dup2(broker, BROKER_FD) < 0) ||
	    syscall(SYS_close_range, broker >= 0 ? BROKER_FD + 1 : BROKER_FD, ~0U, 0) < 0)
		_exit(125);
	execve(python, (char *const *)argv, (char *const *)environment);
	_exit(126);
}

static void explain_death(struct channel_message *message, const char *python, int status)
{
	message->status = 125;
	if (WIFSIGNALED(status))
		snprintf(message->text, sizeof(message->text),
			 "error [slurm]: the engine was killed by signal %d (%s)%s", WTERMSIG(status),
			 strsignal(WTERMSIG(status)),
			 WTERMSIG(status) == SIGKILL ? " (the job's memory limit?)" : "");
	else
		snprintf(message->text, sizeof(message->text),
			 "error [slurm]: the engine did not start: %.1024s ended with status %d (check the installation on "
			 "this node)", python, WEXITSTATUS(status));
}

void engine_run(const struct engine_request *request, struct channel_message *ret_message, int ret_fds[CHANNEL_FDS])
{
	const char *environment[MAX_ENVIRONMENT];
	char python[4096], script[4096];
	int pair[2], file, received, status = 0;
	pid_t child, parent = getpid();

	memset(ret_message, 0, sizeof(*ret_message));
	for (int i = 0; i < CHANNEL_FDS; i++)
		ret_fds[i] = -1;
	snprintf(python, sizeof(python), "%s/venv/bin/python", request->prefix);
	snprintf(script, sizeof(script), "%s/libexec/fairlead/engine.py", request->prefix);
	choose_environment(request->environment, environment);
	file = request_file(request);
	if (file < 0) {
		fail(ret_message, "request", -file);
		return;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		fail(ret_message, "socket pair", errno);
		close(file);
		return;
	}
	child = fork();
	if (child == 0)
		become_engine(python, script, environment, pair[1], file, request->broker, parent);
	close(pair[1]);
	close(file);
	if (child < 0) {
		fail(ret_message, "fork", errno);
		close(pair[0]);
		return;
	}
	received = channel_receive(pair[0], 0, ret_message, ret_fds);
	close(pair[0]);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (received < 0)
		fail(ret_message, "answer", -received);
	else if (received == 0)
		explain_death(ret_message, python, status);
}
