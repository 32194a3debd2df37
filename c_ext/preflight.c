/* SPDX-License-Identifier: Apache-2.0 */
#include "preflight.h"

#include "old_headers.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "exec.h"

static int64_t now_ms(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* The child; the loader's name must be ldd for musl, which knows no variable for this. */
static _Noreturn void become_loader(const void *block, size_t size, const struct preflight *preflight, int out, pid_t parent)
{
	char *argv[] = { strstr(preflight->program.interpreter, "/ld-musl-") ? "ldd" : (char *)preflight->program.interpreter,
			 (char *)preflight->path, NULL };
	const struct rlimit seconds = { 2, 2 }, none = { 0, 0 };
	struct report report;
	int null = open("/dev/null", O_RDONLY);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent || null < 0 || setpgid(0, 0) < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
		_exit(125);
	signal(SIGPIPE, SIG_DFL);
	setrlimit(RLIMIT_CPU, &seconds);
	setrlimit(RLIMIT_CORE, &none);
	clearenv();
	if (exec_environment(block, size, &report) < 0 || setenv("LD_TRACE_LOADED_OBJECTS", "1", 1) < 0 ||
	    setenv("LD_WARN", "yes", 1) < 0 || setenv("LD_BIND_NOW", "1", 1) < 0 || exec_drop_privileges(&report) < 0 ||
	    syscall(SYS_close_range, 3, ~0U, 0) < 0)
		_exit(125);
	execve(preflight->program.interpreter, argv, environ);
	_exit(126);
}

static void take(int in, int64_t deadline, struct preflight *ret)
{
	struct pollfd wait = { .fd = in, .events = POLLIN };
	int64_t left;
	ssize_t n = 1;

	while (n && ret->length < sizeof(ret->text) - 1) {
		left = deadline - now_ms();
		if (left <= 0 || (poll(&wait, 1, (int)left) < 0 && errno != EINTR)) {
			ret->timed_out = 1;
			return;
		}
		if (!wait.revents)
			continue;
		n = read(in, ret->text + ret->length, sizeof(ret->text) - 1 - ret->length);
		if (n < 0)
			return;
		ret->length += (size_t)n;
	}
}

int preflight_run(const void *block, size_t size, const char *command, const char *path_variable, int trace,
		  unsigned int limit_ms, struct preflight *ret)
{
	pid_t child, parent = getpid();
	int64_t deadline = now_ms() + limit_ms;
	int pair[2], err;

	memset(ret, 0, sizeof(*ret));
	err = exec_find(command, path_variable, ret->path, sizeof(ret->path));
	if (!err)
		err = program_inspect(ret->path, &ret->program);
	if (err < 0 || !trace || ret->program.kind != PROGRAM_DYNAMIC)
		return err;
	if (pipe2(pair, O_CLOEXEC) < 0)
		return -errno;
	child = fork();
	if (child == 0)
		become_loader(block, size, ret, pair[1], parent);
	close(pair[1]);
	if (child < 0) {
		close(pair[0]);
		return -EAGAIN;
	}
	take(pair[0], deadline, ret);
	close(pair[0]);
	/* Whatever it left running; ours, since it is not reaped yet. */
	kill(-child, SIGKILL);
	kill(child, SIGKILL);
	while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
	return 0;
}
