/* SPDX-License-Identifier: Apache-2.0
 *
 * From root to the service account, and only then to Python: groups, gid, uid, checked; no_new_privs; nothing of
 * slurmstepd's environment or descriptors. */
#include "broker_keeper.h"

#include "old_headers.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SOCKET_FD = 3, END_TRIES = 200 };

static void drop_to(const struct site *site)
{
	uid_t real, effective, saved;
	gid_t group, effective_group, saved_group;

	if (setgroups(0, NULL) < 0 || setresgid(site->service_gid, site->service_gid, site->service_gid) < 0 ||
	    setresuid(site->service, site->service, site->service) < 0)
		_exit(125);
	if (getresuid(&real, &effective, &saved) < 0 || real != site->service || effective != site->service ||
	    saved != site->service || getresgid(&group, &effective_group, &saved_group) < 0 ||
	    group != site->service_gid || effective_group != site->service_gid || saved_group != site->service_gid ||
	    setuid(0) == 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		_exit(125);
}

/* slurmstepd is exempt from the kernel's choice of a victim when memory runs out; a program that a user makes work is
 * not. Where this is refused, the value is higher already. */
static void be_a_victim(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	(void)!write(fd, "0", 1);
	close(fd);
}

static _Noreturn void become_keeper(const struct site *site, const char *prefix, const char *store, int socket,
				    pid_t parent)
{
	const char *environment[] = { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8",
				      "HOME=/", NULL };
	const struct rlimit no_core = { 0, 0 };
	char python[PATH_MAX], script[PATH_MAX], uid[16], job[16];
	const char *argv[] = { python, "-I", "-S", script, store, uid, job, NULL };
	int null = open("/dev/null", O_RDWR);

	snprintf(python, sizeof(python), "%s/venv/bin/python", prefix);
	snprintf(script, sizeof(script), "%s/libexec/fairlead/keeper.py", prefix);
	snprintf(uid, sizeof(uid), "%u", site->uid);
	snprintf(job, sizeof(job), "%u", site->job);
	socket = fcntl(socket, F_DUPFD, 10);
	if (null < 0 || socket < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0 ||
	    dup2(socket, SOCKET_FD) < 0 || syscall(SYS_close_range, SOCKET_FD + 1, ~0U, 0) < 0)
		_exit(125);
	be_a_victim();
	drop_to(site);
	/* After the change of ids, which clears it. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent || chdir("/") < 0)
		_exit(125);
	umask(077);
	setrlimit(RLIMIT_CORE, &no_core);
	setsid();
	execve(python, (char *const *)argv, (char *const *)environment);
	_exit(126);
}

int keeper_start(const struct site *site, const char *prefix, const char *store, int *ret_socket)
{
	pid_t child, parent = getpid();
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	broker_take_no_descriptors(pair[1]);
	child = fork();
	if (child == 0)
		become_keeper(site, prefix, store, pair[1], parent);
	close(pair[1]);
	if (child < 0) {
		child = -errno;
		close(pair[0]);
		return child;
	}
	*ret_socket = pair[0];
	return child;
}

void keeper_end(int pid)
{
	const struct timespec pause = { .tv_nsec = 10 * 1000000 };
	pid_t gone = 0;

	kill(pid, SIGTERM);
	for (int i = 0; i < END_TRIES && gone == 0; i++) {
		gone = waitpid(pid, NULL, WNOHANG);
		if (gone == 0)
			nanosleep(&pause, NULL);
	}
	if (gone != 0)
		return;
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}
