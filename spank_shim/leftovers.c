/* SPDX-License-Identifier: Apache-2.0
 *
 * The words in the note are the user's, and so is what lies there: everything happens in a child that has become the user
 * for good, and has not executed anything since it was root, so that no process of the user can take it over. */
#include "leftovers.h"

#include "old_headers.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "stages.h"

/* A large tree takes longer on a slow disk: the rest of it is for the next pull. */
#define PATIENCE_S 15
#define DYING_MS 10000
#define LOOK_MS 20
#define END_MS 2000

static int note = -1;
static uid_t uid;
static gid_t gid;

void leftovers_begin(void)
{
	uid = geteuid();
	gid = getegid();
	note = memfd_create("fairlead-note", MFD_CLOEXEC);
}

int leftovers_note(void)
{
	return note;
}

static void become_user(void)
{
	sigset_t none;

	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* System calls, where libc's functions would talk to threads that this process does not have. */
	if (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, gid, gid, gid) < 0 ||
	    syscall(SYS_setresuid, uid, uid, uid) < 0 || geteuid() != uid || getegid() != gid ||
	    syscall(SYS_setresuid, -1, 0, -1) == 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		_exit(125);
}

/* Read the note, "PID /STORE": the store's descriptor, or -1. */
static int open_noted(pid_t *ret_engine)
{
	char text[PATH_MAX + 16], *path;
	ssize_t n = pread(note, text, sizeof(text) - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	*ret_engine = (pid_t)strtol(text, &path, 10);
	if (*ret_engine <= 1 || path[0] != ' ' || path[1] != '/')
		return -1;
	return open(path + 1, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* An engine that was killed in the middle of an fsync lives until that is done, and holds its lock. What others of the
 * user's hold is theirs. */
static _Noreturn void sweep(void)
{
	const struct timespec pause = { .tv_nsec = LOOK_MS * 1000000 };
	pid_t engine;
	int store;

	prctl(PR_SET_NAME, "fairlead-sweep");
	become_user();
	alarm(PATIENCE_S);
	store = open_noted(&engine);
	if (store < 0)
		_exit(1);
	for (int ms = 0; stages_sweep(store) > 0 && kill(engine, 0) == 0 && ms < DYING_MS; ms += LOOK_MS)
		nanosleep(&pause, NULL);
	stages_sweep(store); /* it may have ended between the two looks */
	_exit(0);
}

void leftovers_clear(void)
{
	pid_t engine;
	int store = note < 0 ? -1 : open_noted(&engine);

	if (store < 0)
		return;
	stages_sweep(store);
	close(store);
}

static int ends_within(pid_t child, int limit_ms)
{
	const struct timespec pause = { .tv_nsec = LOOK_MS * 1000000 };

	for (int ms = 0; ms < limit_ms; ms += LOOK_MS) {
		if (waitpid(child, NULL, WNOHANG) != 0)
			return 1;
		nanosleep(&pause, NULL);
	}
	return 0;
}

/* The child is the user's, who may stop it: its alarm would then never come, and slurmstepd never end. */
void leftovers_sweep(void)
{
	char first;
	pid_t child;

	if (note < 0 || uid == 0 || pread(note, &first, 1, 0) != 1)
		return;
	child = fork();
	if (child == 0)
		sweep();
	if (child <= 0 || ends_within(child, PATIENCE_S * 1000 + END_MS))
		return;
	kill(child, SIGKILL);
	ends_within(child, END_MS);
}
