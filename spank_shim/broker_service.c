/* SPDX-License-Identifier: Apache-2.0 */
#include "broker_service.h"

#include "old_headers.h"

#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

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

/* By way of numbers that none of them has yet: the targets may be among the descriptors. */
static void keep_only(const int *fds, unsigned int count)
{
	int null = open("/dev/null", O_RDWR), high[SERVICE_MAX_FDS];

	if (null < 0 || count > SERVICE_MAX_FDS)
		_exit(125);
	for (unsigned int i = 0; i < count; i++) {
		high[i] = fcntl(fds[i], F_DUPFD, SERVICE_FD + (int)count);
		if (high[i] < 0)
			_exit(125);
	}
	if (dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0)
		_exit(125);
	for (unsigned int i = 0; i < count; i++)
		if (dup2(high[i], SERVICE_FD + (int)i) < 0)
			_exit(125);
	if (syscall(SYS_close_range, SERVICE_FD + count, ~0U, 0) < 0)
		_exit(125);
}

void service_become(const struct site *site, const int *fds, unsigned int count, pid_t parent)
{
	const struct rlimit no_core = { 0, 0 };

	keep_only(fds, count);
	be_a_victim();
	drop_to(site);
	/* After the change of ids, which clears it. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent || chdir("/") < 0)
		_exit(125);
	umask(077);
	setrlimit(RLIMIT_CORE, &no_core);
	setsid();
}
