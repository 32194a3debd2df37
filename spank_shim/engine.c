/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine is a child of the elected task: in the job's cgroup, killed with it, waited for. It gets a clean
 * environment, because the job's may name libraries and start-up files that would break an interpreter; the job's
 * environment travels as data. The interpreter is named by its absolute path and isolated (-I -S). */
#include "engine.h"

#include "old_headers.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "leftovers.h"

enum { SOCKET, REQUEST, BROKER, KEY, GATE, NOTE, FDS, FIRST_FD = 3 }; /* run/step.py: 3 to 8 */

/* Of the job's environment the engine itself needs these: whose credentials, which proxy, which certificates. */
static const char *const kept[] = {
	"HOME=", "USER=", "LOGNAME=", "XDG_CONFIG_HOME=", "XDG_RUNTIME_DIR=", "DOCKER_CONFIG=", "REGISTRY_AUTH_FILE=",
	"CONTAINERS_REGISTRIES_CONF=", "ENROOT_CONFIG_PATH=",
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

static int key_file(const struct engine_request *request)
{
	int fd = memfd_create("fairlead-key", MFD_CLOEXEC);
	int err;

	if (fd < 0)
		return -errno;
	err = write_all(fd, request->key, request->key_size);
	if (!err && lseek(fd, 0, SEEK_SET) < 0)
		err = -errno;
	if (err) {
		close(fd);
		return err;
	}
	return fd;
}

/* The request as a memory file, so that neither side can block on the other. */
static int request_file(const struct engine_request *request)
{
	int fd = memfd_create("fairlead-request", MFD_CLOEXEC);
	char *text = NULL;
	size_t size = 0;
	FILE *out;
	int err;

	if (fd < 0)
		return -errno;
	out = open_memstream(&text, &size);
	if (!out) {
		close(fd);
		return -ENOMEM;
	}
	fwrite(request->facts, 1, request->facts_size, out);
	if (request->key)
		fwrite("keep=1", 1, sizeof("keep=1"), out);
	if (request->note >= 0)
		fwrite("note=1", 1, sizeof("note=1"), out);
	fputc('\0', out);
	for (char **entry = request->environment; *entry; entry++)
		fwrite(*entry, 1, strlen(*entry) + 1, out);
	err = fclose(out) ? -ENOMEM : write_all(fd, text, size);
	free(text);
	if (!err && lseek(fd, 0, SEEK_SET) < 0)
		err = -errno;
	if (err) {
		close(fd);
		return err;
	}
	return fd;
}

void engine_environment(char *const *job, const char *ret[ENGINE_MAX_ENVIRONMENT])
{
	size_t count = 0;

	ret[count++] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	ret[count++] = "LANG=C.UTF-8";
	for (; *job && count < ENGINE_MAX_ENVIRONMENT - 1; job++)
		for (size_t i = 0; i < sizeof(kept) / sizeof(*kept); i++)
			if (strncmp(*job, kept[i], strlen(kept[i])) == 0) {
				ret[count++] = *job;
				break;
			}
	ret[count] = NULL;
}

static volatile sig_atomic_t working, stopped;

int engine_stop(void)
{
	if (!working)
		return 0;
	stopped = 1;
	kill(working, SIGKILL);
	return 1;
}

/* In the child; only system calls from here on, since slurmstepd had threads when it forked the task. */
static _Noreturn void become_engine(const char *python, const char *script, const char **environment,
				    const int given[FDS], pid_t parent)
{
	const char *argv[] = { python, "-I", "-S", script, NULL };
	int null, fds[FDS];
	struct rlimit files;
	cpu_set_t all;

	/* The task's own affinity may be one core; unpacking wants all that the cgroup allows. */
	memset(&all, 0xff, sizeof(all));
	sched_setaffinity(0, sizeof(all), &all);
	/* Room for a mount per layer; the job's own limit stays the tasks'. */
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		_exit(125);
	null = open("/dev/null", O_RDONLY);
	if (null >= 0)
		dup2(null, 0);
	/* Out of the way first: each may be the number that another must have. */
	for (int i = 0; i < FDS; i++)
		fds[i] = given[i] < 0 ? -1 : fcntl(given[i], F_DUPFD, 10);
	dup2(2, 1);
	if (syscall(SYS_close_range, FIRST_FD, 9, 0) < 0)
		_exit(125);
	for (int i = 0; i < FDS; i++)
		if ((given[i] >= 0 && fds[i] < 0) || (fds[i] >= 0 && dup2(fds[i], FIRST_FD + i) < 0))
			_exit(125);
	if (syscall(SYS_close_range, FIRST_FD + FDS, ~0U, 0) < 0)
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

/* All but the broker's, the gate's and the note, which are the step's. */
static void close_own(const int fds[FDS])
{
	for (int i = 0; i < FDS; i++)
		if (i != BROKER && i != GATE && i != NOTE && fds[i] >= 0)
			close(fds[i]);
}

void engine_reap(struct engine_request *request)
{
	while (request->child && waitpid(request->child, NULL, 0) < 0 && errno == EINTR)
		;
	request->child = 0;
}

/* Until the engine answers, or ends: 1. Or the hub stops the step, or is gone: 0, without an engine. */
static int wait_for_answer(int socket, int gate, pid_t child)
{
	struct pollfd fds[] = { { .fd = socket, .events = POLLIN }, { .fd = gate, .events = POLLRDHUP } };

	while (poll(fds, 2, -1) < 0 && errno == EINTR)
		;
	if (fds[0].revents || !fds[1].revents)
		return 1;
	kill(child, SIGKILL);
	return 0;
}

void engine_run(struct engine_request *request, struct channel_message *ret_message, int ret_fds[CHANNEL_FDS])
{
	const char *environment[ENGINE_MAX_ENVIRONMENT];
	char python[4096], script[4096];
	int pair[2], fds[FDS] = { -1, -1, request->broker, -1, request->gate, request->note }, received, status = 0;
	pid_t child, parent = getpid();

	memset(ret_message, 0, sizeof(*ret_message));
	for (int i = 0; i < CHANNEL_FDS; i++)
		ret_fds[i] = -1;
	snprintf(python, sizeof(python), "%s/venv/bin/python", request->prefix);
	snprintf(script, sizeof(script), "%s/libexec/fairlead/engine.py", request->prefix);
	engine_environment(request->environment, environment);
	fds[REQUEST] = request_file(request);
	fds[KEY] = request->key ? key_file(request) : -1;
	if (fds[REQUEST] < 0 || (request->key && fds[KEY] < 0)) {
		fail(ret_message, "request", fds[REQUEST] < 0 ? -fds[REQUEST] : -fds[KEY]);
		close_own(fds);
		return;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		fail(ret_message, "socket pair", errno);
		close_own(fds);
		return;
	}
	fds[SOCKET] = pair[1];
	child = fork();
	if (child == 0)
		become_engine(python, script, environment, fds, parent);
	close_own(fds);
	if (child < 0) {
		fail(ret_message, "fork", errno);
		close(pair[0]);
		return;
	}
	working = child;
	if (wait_for_answer(pair[0], request->gate, child))
		received = channel_receive(pair[0], 0, ret_message, ret_fds);
	else
		received = -ECANCELED;
	close(pair[0]);
	if (received > 0 && !stopped) {
		working = 0;
		request->child = child;
		return;
	}
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	working = 0;
	if (stopped) {
		leftovers_clear();
		_exit(125);
	}
	ret_message->status = 125;
	if (received == -ECANCELED) /* what is said only where the hub did not say why */
		snprintf(ret_message->text, sizeof(ret_message->text), "error [gate]: lost srun's hub before the container "
			 "stood (was it killed? is srun's host up?)");
	else if (received < 0)
		fail(ret_message, "answer", -received);
	else
		explain_death(ret_message, python, status);
}
