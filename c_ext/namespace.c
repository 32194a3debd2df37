/* SPDX-License-Identifier: Apache-2.0 */
#include "namespace.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "block.h"

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

static const struct {
	uint32_t flag;
	int clone;
	enum channel_fd fd;
	const char *path;
} further[] = {
	{ ROOT_NET, CLONE_NEWNET, CHANNEL_NETNS, "/proc/self/ns/net" },
	{ ROOT_IPC, CLONE_NEWIPC, CHANNEL_IPCNS, "/proc/self/ns/ipc" },
	{ ROOT_UTS, CLONE_NEWUTS, CHANNEL_UTSNS, "/proc/self/ns/uts" },
};

/* A new network has one interface, and it is down: programs that talk to themselves want it up. */
static int raise_loopback(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), err = 0;

	if (fd < 0)
		return errno == EAFNOSUPPORT ? 0 : -errno;
	if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		err = -errno;
	close(fd);
	return err;
}

int namespace_create(struct report *report)
{
	return namespace_create_as(0, report);
}

int namespace_create_as(uint32_t flags, struct report *report)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();
	int clone = CLONE_NEWUSER | CLONE_NEWNS, err;
	char map[64];

	for (size_t i = 0; i < sizeof(further) / sizeof(*further); i++)
		clone |= flags & further[i].flag ? further[i].clone : 0;

	/* A process that changed its uid is not dumpable, and its /proc/self files then belong to root. */
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	err = unshare_alone(clone);
	if (err < 0)
		return report_set(report, STEP_USERNS, -err, "unshare(CLONE_NEWUSER|CLONE_NEWNS)");

	/* The kernel wants setgroups denied before an unprivileged gid_map. */
	err = write_file("/proc/self/setgroups", "deny");
	if (err < 0)
		return report_set(report, STEP_USERNS, -err, "/proc/self/setgroups");
	/* uid -> uid unless asked: PMIx servers refuse or hang on clients whose uid differs from the job's. */
	snprintf(map, sizeof(map), "%u %u 1\n", flags & ROOT_REMAP ? 0 : uid, uid);
	err = write_file("/proc/self/uid_map", map);
	if (err < 0)
		return report_set(report, STEP_USERNS, -err, "/proc/self/uid_map");
	snprintf(map, sizeof(map), "%u %u 1\n", flags & ROOT_REMAP ? 0 : gid, gid);
	err = write_file("/proc/self/gid_map", map);
	if (err < 0)
		return report_set(report, STEP_USERNS, -err, "/proc/self/gid_map");

	/* Before the first mount. Slave, not private: a file system that the host's automounter brings up later
	 * below a bound directory appears inside as well; nothing goes the other way. */
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		return report_set(report, STEP_USERNS, errno, "make / a recursive slave");
	err = flags & ROOT_NET ? raise_loopback() : 0;
	return err ? report_set(report, STEP_USERNS, -err, "loopback interface") : 0;
}

int namespace_open(uint32_t flags, int ret_fds[CHANNEL_FDS])
{
	int err = 0;

	for (int i = 0; i < CHANNEL_FDS; i++)
		ret_fds[i] = -1;
	ret_fds[CHANNEL_USERNS] = open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC);
	ret_fds[CHANNEL_MNTNS] = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (ret_fds[CHANNEL_USERNS] < 0 || ret_fds[CHANNEL_MNTNS] < 0)
		err = -errno;
	for (size_t i = 0; !err && i < sizeof(further) / sizeof(*further); i++) {
		if (!(flags & further[i].flag))
			continue;
		ret_fds[further[i].fd] = open(further[i].path, O_RDONLY | O_CLOEXEC);
		err = ret_fds[further[i].fd] < 0 ? -errno : 0;
	}
	for (int i = 0; err && i < CHANNEL_FDS; i++)
		if (ret_fds[i] >= 0)
			close(ret_fds[i]);
	return err;
}

int namespace_join_further(const int fds[CHANNEL_FDS], struct report *report)
{
	for (size_t i = 0; i < sizeof(further) / sizeof(*further); i++)
		if (fds[further[i].fd] >= 0 && setns(fds[further[i].fd], further[i].clone) < 0)
			return report_set(report, STEP_JOIN, errno, further[i].path);
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
