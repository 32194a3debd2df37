/* SPDX-License-Identifier: Apache-2.0
 *
 * From root to the service account, and only then to Python; nothing of slurmstepd's environment or descriptors. */
#include "broker_keeper.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "broker_service.h"
#include "stages.h"

enum { END_TRIES = 200, SWEEP_S = 5 };

static _Noreturn void become_keeper(const struct site *site, const char *prefix, const char *store,
				    const struct keeper_image *image, int socket, pid_t parent)
{
	const char *environment[] = { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8",
				      "HOME=/", NULL };
	char python[PATH_MAX], script[PATH_MAX], uid[16], job[16], count[16];
	const char *argv[] = { python, "-I", "-S", script, store, uid, job, *image->name ? image->name : NULL, count,
			       NULL };
	int fds[SERVICE_MAX_FDS] = { socket };

	snprintf(python, sizeof(python), "%s/venv/bin/python", prefix);
	snprintf(script, sizeof(script), "%s/libexec/fairlead/keeper.py", prefix);
	snprintf(uid, sizeof(uid), "%u", site->uid);
	snprintf(job, sizeof(job), "%u", site->job);
	snprintf(count, sizeof(count), "%u", image->count);
	memcpy(fds + 1, image->mounts, image->count * sizeof(*fds));
	service_become(site, fds, 1 + image->count, parent);
	execve(python, (char *const *)argv, (char *const *)environment);
	_exit(126);
}

int keeper_start(const struct site *site, const char *prefix, const char *store, const struct keeper_image *image,
		 int *ret_socket)
{
	pid_t child, parent = getpid();
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	broker_take_no_descriptors(pair[1]);
	child = fork();
	if (child == 0)
		become_keeper(site, prefix, store, image, pair[1], parent);
	close(pair[1]);
	if (child < 0) {
		child = -errno;
		close(pair[0]);
		return child;
	}
	*ret_socket = pair[0];
	return child;
}

/* The store's files are its account's, and only that may remove them. */
static void sweep(const struct site *site)
{
	pid_t child, parent = getpid();

	child = fork();
	if (child == 0) {
		service_become(site, &site->fd, 1, parent);
		alarm(SWEEP_S);
		_exit(stages_sweep(SERVICE_FD) < 0);
	}
	while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
}

void keeper_end(const struct site *site, int pid)
{
	const struct timespec pause = { .tv_nsec = 10 * 1000000 };
	int status = 0;
	pid_t gone = 0;

	kill(pid, SIGTERM);
	for (int i = 0; i < END_TRIES && gone == 0; i++) {
		gone = waitpid(pid, &status, WNOHANG);
		if (gone == 0)
			nanosleep(&pause, NULL);
	}
	if (gone == 0)
		kill(pid, SIGKILL);
	while (gone == 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (status)
		sweep(site);
}
