/* SPDX-License-Identifier: Apache-2.0 */
#include "channel.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int channel_send(int socket, int status, const char *text, const int *fds)
{
	struct channel_message message = { .magic = CHANNEL_MAGIC, .status = status };
	struct iovec iov = { .iov_base = &message, .iov_len = sizeof(message) };
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * CHANNEL_FDS)] = { 0 };
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1 };
	int given[CHANNEL_FDS];
	struct cmsghdr *rights;
	size_t count = 0;

	snprintf(message.text, sizeof(message.text), "%s", text ? text : "");
	for (int i = 0; fds && i < CHANNEL_FDS; i++) {
		if (fds[i] < 0)
			continue;
		message.present |= 1u << i;
		given[count++] = fds[i];
	}
	if (count) {
		header.msg_control = control;
		header.msg_controllen = CMSG_SPACE(sizeof(int) * count);
		rights = CMSG_FIRSTHDR(&header);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(sizeof(int) * count);
		memcpy(CMSG_DATA(rights), given, sizeof(int) * count);
	}
	return sendmsg(socket, &header, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* What came, to its places; a message that promises another number of descriptors (some are lost where the receiver may
 * open no more) gives none. */
static int place(const struct channel_message *message, const int *came, size_t count, int ret_fds[CHANNEL_FDS])
{
	if ((size_t)__builtin_popcount(message->present) != count || message->present >> CHANNEL_FDS) {
		while (count)
			close(came[--count]);
		return -EBADMSG;
	}
	for (int i = 0, next = 0; i < CHANNEL_FDS; i++)
		if (message->present >> i & 1)
			ret_fds[i] = came[next++];
	return 0;
}

int channel_receive(int socket, int flags, struct channel_message *ret_message, int ret_fds[CHANNEL_FDS])
{
	struct iovec iov = { .iov_base = ret_message, .iov_len = sizeof(*ret_message) };
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * CHANNEL_FDS)];
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
				 .msg_controllen = sizeof(control) };
	int came[CHANNEL_FDS], err;
	struct cmsghdr *rights;
	size_t count = 0;
	ssize_t n;

	for (int i = 0; i < CHANNEL_FDS; i++)
		ret_fds[i] = -1;
	memset(ret_message, 0, sizeof(*ret_message));
	do {
		n = recvmsg(socket, &header, flags | MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (n == 0)
		return 0;
	rights = CMSG_FIRSTHDR(&header);
	if (rights && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS) {
		count = (rights->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		count = count > CHANNEL_FDS ? CHANNEL_FDS : count;
		memcpy(came, CMSG_DATA(rights), count * sizeof(int));
	}
	err = place(ret_message, came, count, ret_fds);
	if (err || n != (ssize_t)sizeof(*ret_message) || ret_message->magic != CHANNEL_MAGIC ||
	    (ret_message->status == 0 && ret_fds[CHANNEL_BLOCK] < 0)) {
		for (int i = 0; i < CHANNEL_FDS; i++)
			if (ret_fds[i] >= 0)
				close(ret_fds[i]);
		return -EBADMSG;
	}
	ret_message->text[sizeof(ret_message->text) - 1] = '\0';
	return 1;
}
