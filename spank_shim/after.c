/* SPDX-License-Identifier: Apache-2.0 */
#include "after.h"

#include "old_headers.h"

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
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arguments.h"
#include "block.h"
#include "channel.h"
#include "options.h"
#include "report.h"

/* Longer than run/after.py gives all hooks together; with what comes after it shorter than UnkillableStepTimeout, which
 * begins when a step is killed and drains the node when it is over. */
#define AFTER_MS 35000
#define REAP_MS 5000

#define BLOCK_FD 3

struct user {
	uid_t uid;
	gid_t gid;
	gid_t *groups;
	int group_count;
};

static int offered[2] = { -1, -1 };
static uint32_t ended;

void after_listen(void)
{
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, offered) < 0)
		offered[0] = offered[1] = -1; /* after_offer says so where it matters */
}

static int is_wanted(int block)
{
	struct block_cursor cursor;
	struct block_record record;
	struct stat st;
	int found = 0;
	void *data;

	if (fstat(block, &st) < 0 || st.st_size <= 0 || st.st_size > BLOCK_MAX_SIZE)
		return 0;
	data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, block, 0);
	if (data == MAP_FAILED)
		return 0;
	if (block_open(&cursor, data, (size_t)st.st_size) == 0)
		while (!found && block_next(&cursor, &record))
			found = record.op == OP_AFTER;
	munmap(data, (size_t)st.st_size);
	return found;
}

void after_offer(int block)
{
	int fds[CHANNEL_FDS] = { -1, -1, -1, -1, -1, -1 };

	fds[CHANNEL_BLOCK] = block;
	if (is_wanted(block) && channel_send(offered[0], 0, NULL, fds) < 0)
		slurm_spank_log("fairlead: warning: poststop hooks will not run: no connection to slurmstepd");
}

/* slurmstepd is exempt from the kernel's choice of a victim when memory runs out; what a user makes work is not. */
static void be_a_victim(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0 && write(fd, "0", 1) < 0)
		errno = 0; /* it is higher already */
	if (fd >= 0)
		close(fd);
}

/* By system calls: libc's functions would talk to slurmstepd's threads, which this process has not. */
static void become_user(const struct user *user)
{
	if (syscall(SYS_setgroups, user->group_count, user->groups) < 0 ||
	    syscall(SYS_setresgid, user->gid, user->gid, user->gid) < 0 ||
	    syscall(SYS_setresuid, user->uid, user->uid, user->uid) < 0 || geteuid() != user->uid ||
	    getegid() != user->gid || syscall(SYS_setresuid, -1, 0, -1) == 0 ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		_exit(125);
}

/* The first process of a pid namespace: whatever it starts, or a user makes it start, ends with it. What comes out of the
 * socket is the user's, and is first touched when this process is that, too: to close a stranger's descriptor may take
 * long. */
static _Noreturn void work(const struct user *user, const char *python, int said)
{
	static const char *const environment[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", NULL };
	const char *argv[] = { python, "-I", "-m", "fairlead.run.after", NULL };
	const struct rlimit no_core = { 0, 0 };
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), fds[CHANNEL_FDS];
	struct channel_message message;
	sigset_t none;

	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	be_a_victim();
	setsid();
	setrlimit(RLIMIT_CORE, &no_core);
	umask(077);
	if (null < 0 || chdir("/") < 0 || dup2(null, 0) < 0 || dup2(said, 1) < 0 || dup2(said, 2) < 0)
		_exit(125);
	become_user(user);
	if (channel_receive(offered[1], MSG_DONTWAIT, &message, fds) != 1 || fds[CHANNEL_BLOCK] < 0)
		_exit(125);
	if (fds[CHANNEL_BLOCK] != BLOCK_FD && dup2(fds[CHANNEL_BLOCK], BLOCK_FD) < 0)
		_exit(125);
	if (fcntl(BLOCK_FD, F_SETFD, 0) < 0 || syscall(SYS_close_range, BLOCK_FD + 1, ~0U, 0) < 0)
		_exit(125);
	execve(python, (char *const *)argv, (char *const *)environment);
	_exit(126);
}

static int ends_within(int handle, int limit_ms)
{
	struct pollfd end = { .fd = handle, .events = POLLIN };

	return poll(&end, 1, limit_ms) > 0;
}

/* Each line once more, to where slurmstepd's own messages go: the step's stderr and slurmd's log. */
static void tell(int said)
{
	char text[4096];
	ssize_t size = read(said, text, sizeof(text) - 1);

	text[size > 0 ? size : 0] = '\0';
	for (char *rest = text, *line = strsep(&rest, "\n"); line; line = strsep(&rest, "\n"))
		if (*line)
			slurm_spank_log("%s", report_printable(line));
}

static void run(const struct user *user)
{
	char python[OPTION_MAX + 32];
	int said[2], handle, status = 0;
	pid_t child;

	snprintf(python, sizeof(python), "%s/venv/bin/python", arguments.prefix);
	if (pipe2(said, O_CLOEXEC | O_NONBLOCK) < 0)
		return;
	child = (pid_t)syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, NULL);
	if (child == 0)
		work(user, python, said[1]);
	close(said[1]);
	handle = child < 0 ? -1 : (int)syscall(SYS_pidfd_open, child, 0);
	if (child > 0 && (handle < 0 || !ends_within(handle, AFTER_MS))) {
		kill(child, SIGKILL);
		slurm_spank_log("fairlead: warning: poststop hooks were not done in time and are killed");
	}
	if (handle >= 0 && ends_within(handle, REAP_MS))
		waitpid(child, &status, WNOHANG);
	tell(said[0]);
	if (child < 0 || (WIFEXITED(status) && WEXITSTATUS(status) > 1))
		slurm_spank_log("fairlead: warning: poststop hooks did not run: the engine does not start");
	close(said[0]);
	close(handle);
}

void after_task_exit(spank_t spank)
{
	struct user user = { 0 };
	uint32_t tasks = 0;

	if (offered[1] < 0 || spank_get_item(spank, S_JOB_LOCAL_TASK_COUNT, &tasks) != ESPANK_SUCCESS || ++ended != tasks ||
	    !ends_within(offered[1], 0))
		return;
	if (spank_get_item(spank, S_JOB_UID, &user.uid) != ESPANK_SUCCESS || user.uid == 0 ||
	    spank_get_item(spank, S_JOB_GID, &user.gid) != ESPANK_SUCCESS)
		return;
	if (spank_get_item(spank, S_JOB_SUPPLEMENTARY_GIDS, &user.groups, &user.group_count) != ESPANK_SUCCESS)
		user.group_count = 0;
	run(&user);
}
