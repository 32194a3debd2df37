/* SPDX-License-Identifier: Apache-2.0 */
#include "namespace.h"

#include <errno.h>
#include <linux/capability.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { THREADS_END_MS = 500 };

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int err = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		err = -errno;
	close(fd);
	return err;
}

/* A process that has joined its threads may have them for a while longer: who waits is woken before the kernel has taken
 * the thread off the process, and unshare() then refuses with EINVAL. One that stays refuses for good. */
static int unshare_alone(int flags)
{
	const struct timespec pause = { .tv_nsec = 1000000 };

	for (int i = 0; unshare(flags) < 0; i++) {
		if (errno != EINVAL || i == THREADS_END_MS)
			return -errno;
		nanosleep(&pause, NULL);
	}
	return 0;
}

int namespace_end_with(pid_t parent)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		return -errno;
	return getppid() == parent ? 0 : -ESRCH; /* who had ended before the call sends no signal */
}

int namespace_create(struct report *report)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();
	char map[64];
	int err;

	/* A process that changed its uid is not dumpable, and its /proc/self files then belong to root. */
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	err = unshare_alone(CLONE_NEWUSER | CLONE_NEWNS);
	if (err < 0)
		return report_set(report, STEP_USERNS, -err, "unshare(CLONE_NEWUSER|CLONE_NEWNS)");

	/* The kernel wants setgroups denied before an unprivileged gid_map. */
	err = write_file("/proc/self/setgroups", "deny");
	if (err < 0)
		return report_set(report, STEP_USERNS, -err, "/proc/self/setgroups");
	/* uid -> uid, not uid -> 0: PMIx servers refuse or hang on clients whose uid differs from the job's. */
	snprintf(map, sizeof(map), "%u %u 1\n", uid, uid);
	err = write_file("/proc/self/uid_map", map);
	if (err < 0)
		return report_set(report, STEP_USERNS, -err, "/proc/self/uid_map");
	snprintf(map, sizeof(map), "%u %u 1\n", gid, gid);
	err = write_file("/proc/self/gid_map", map);
	if (err < 0)
		return report_set(report, STEP_USERNS, -err, "/proc/self/gid_map");

	/* Before the first mount. Slave, not private: a file system that the host's automounter brings up later
	 * below a bound directory appears inside as well; nothing goes the other way. */
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		return report_set(report, STEP_USERNS, errno, "make / a recursive slave");
	return 0;
}

int namespace_join(int userns_fd, int mntns_fd, struct report *report)
{
	/* The user namespace first: it gives the right to enter the mount namespace that it owns. */
	if (setns(userns_fd, CLONE_NEWUSER) < 0)
		return report_set(report, STEP_JOIN, errno, "user namespace");
	if (setns(mntns_fd, CLONE_NEWNS) < 0)
		return report_set(report, STEP_JOIN, errno, "mount namespace");
	return 0;
}

int namespace_lend_capabilities(int lend, struct report *report)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
	uint64_t held;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall(SYS_capget, &header, data) < 0)
		return report_set(report, STEP_PRIVILEGE, errno, "capabilities of hooks");
	for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++)
		data[i].inheritable = lend ? data[i].permitted : 0;
	/* The kernel takes a capability off the ambient set when it leaves the inheritable one. */
	if (syscall(SYS_capset, &header, data) < 0)
		return report_set(report, STEP_PRIVILEGE, errno, "capabilities of hooks");
	held = (uint64_t)data[1].permitted << 32 | data[0].permitted;
	for (unsigned long cap = 0; lend && cap < 64; cap++)
		if ((held >> cap & 1) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0)
			return report_set(report, STEP_PRIVILEGE, errno, "ambient capabilities of hooks");
	return 0;
}
