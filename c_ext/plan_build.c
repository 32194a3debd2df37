/* SPDX-License-Identifier: Apache-2.0 */
#include "plan_build.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block.h"
#include "compose.h"
#include "namespace.h"

static int memory_file(const void *data, size_t size)
{
	const int seals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	int fd = memfd_create("fairlead-block", MFD_CLOEXEC | MFD_ALLOW_SEALING), err = 0;
	const char *at = data;
	ssize_t n;

	if (fd < 0)
		return -errno;
	while (!err && size) {
		n = write(fd, at, size);
		if (n < 0 && errno != EINTR)
			err = -errno;
		at += n > 0 ? n : 0;
		size -= n > 0 ? (size_t)n : 0;
	}
	if (!err && fcntl(fd, F_ADD_SEALS, seals) < 0)
		err = -errno;
	if (err) {
		close(fd);
		return err;
	}
	return fd;
}

/* The child; its exit status says nothing, the message does. */
static void build(const struct plan *plan, const int *mounts, unsigned int mount_count, int socket)
{
	uint32_t flags = block_root_flags(plan->block, plan->block_size);
	int fds[CHANNEL_FDS];
	struct report report;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || namespace_create_as(flags, &report) < 0)
		return;
	/* Now: behind the pivot /proc is the container's. */
	if (namespace_open(flags, fds) < 0)
		return;
	fds[CHANNEL_BLOCK] = memory_file(plan->block, plan->block_size);
	if (fds[CHANNEL_BLOCK] < 0)
		return;
	if (compose_root(plan->block, plan->block_size, mounts, mount_count, &report) < 0)
		return;
	channel_send(socket, 0, NULL, fds);
}

int plan_build(const struct plan *plan, const int *mounts, unsigned int mount_count, int ret_fds[CHANNEL_FDS])
{
	struct channel_message message;
	pid_t child, parent = getpid();
	int pair[2], received;

	for (int i = 0; i < CHANNEL_FDS; i++)
		ret_fds[i] = -1;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	child = fork();
	if (child == 0) {
		if (namespace_end_with(parent) == 0)
			build(plan, mounts, mount_count, pair[1]);
		_exit(0);
	}
	close(pair[1]);
	if (child < 0) {
		close(pair[0]);
		return -EAGAIN;
	}
	received = channel_receive(pair[0], 0, &message, ret_fds);
	close(pair[0]);
	while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
	if (received == 1 && ret_fds[CHANNEL_USERNS] >= 0 && ret_fds[CHANNEL_MNTNS] >= 0)
		return 0;
	for (int i = 0; i < CHANNEL_FDS; i++)
		if (ret_fds[i] >= 0)
			close(ret_fds[i]);
	return received < 0 ? received : -ECHILD;
}
