/* SPDX-License-Identifier: Apache-2.0
 *
 * Three processes: the owner makes the namespaces and keeps them until both others are in, as slurmstepd does with a
 * container's; the target is read by the reader. */
#include "cma.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exec.h"
#include "namespace.h"

#define PATIENCE_S 5
#define UNSUITABLE 255 /* no namespaces: the launch itself will say so */

static volatile uint64_t word; /* at the same address in all of them */

static void say(int fd, char fine)
{
	ssize_t n = write(fd, &fine, 1);

	(void)n;
}

/* Whether the other side is fine; 0 as well where it died without a word. */
static int heard(int fd)
{
	struct pollfd wait = { .fd = fd, .events = POLLIN };
	char fine = 0;

	return poll(&wait, 1, PATIENCE_S * 1000) == 1 && read(fd, &fine, 1) == 1 && fine;
}

static _Noreturn void own(int ready, int end)
{
	struct report report;

	if (namespace_create(&report) < 0) {
		say(ready, 0);
		_exit(UNSUITABLE);
	}
	say(ready, 1);
	heard(end);
	_exit(0);
}

static int join(pid_t owner)
{
	struct report report;
	int user, mount;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/user", owner);
	user = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", owner);
	mount = open(path, O_RDONLY | O_CLOEXEC);
	if (user < 0 || mount < 0 || namespace_join(user, mount, &report) < 0 || exec_drop_privileges(&report) < 0)
		return 0;
	/* What execve does for a rank: it runs as an ordinary program of this user again. */
	return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0;
}

static _Noreturn void be_read(pid_t owner, int ready, int end, int consent)
{
	if (!join(owner) || (consent && prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0) < 0)) {
		say(ready, 0);
		_exit(UNSUITABLE);
	}
	word = (uint64_t)getpid();
	say(ready, 1);
	heard(end);
	_exit(0);
}

static _Noreturn void read_other(pid_t owner, pid_t target)
{
	uint64_t got = 0;
	struct iovec here = { &got, sizeof(got) }, there = { (void *)&word, sizeof(word) };

	if (!join(owner))
		_exit(UNSUITABLE);
	if (process_vm_readv(target, &here, 1, &there, 1, 0) != (ssize_t)sizeof(got))
		_exit(errno > 0 && errno < UNSUITABLE ? errno : EIO);
	_exit(got == (uint64_t)target ? 0 : EIO);
}

static pid_t start(pid_t parent)
{
	pid_t child = fork();

	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		alarm(PATIENCE_S); /* nothing of this waits for ever */
		if (getppid() != parent)
			_exit(UNSUITABLE);
	}
	return child;
}

static int ended(pid_t child)
{
	int status = 0;

	while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return child > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : UNSUITABLE;
}

static int test(int consent)
{
	int ready[2], end[2], result = UNSUITABLE;
	pid_t owner, target = -1, reader, parent = getpid();

	if (pipe2(ready, O_CLOEXEC) < 0)
		return UNSUITABLE;
	if (pipe2(end, O_CLOEXEC) < 0) {
		close(ready[0]);
		close(ready[1]);
		return UNSUITABLE;
	}
	owner = start(parent);
	if (owner == 0) {
		close(end[1]);
		close(ready[0]);
		own(ready[1], end[0]);
	}
	if (owner > 0 && heard(ready[0]))
		target = start(parent);
	if (target == 0) {
		close(end[1]);
		close(ready[0]);
		be_read(owner, ready[1], end[0], consent);
	}
	close(ready[1]);
	if (target > 0 && heard(ready[0])) {
		reader = start(parent);
		if (reader == 0)
			read_other(owner, target);
		result = ended(reader);
	}
	close(end[0]);
	close(end[1]);
	close(ready[0]);
	ended(target);
	ended(owner);
	return result;
}

int cma_test(void)
{
	int plain = test(0);

	if (plain == EPERM && test(1) == 0)
		return CMA_WITH_CONSENT;
	return plain == UNSUITABLE ? -ENOTSUP : -plain;
}
