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
	struct cmsghdr *rights;

	snprintf(message.text, sizeof(message.text), "%s", text ? text : "");
	if (fds) {
		header.msg_control = control;
		header.msg_controllen = sizeof(control);
		rights = CMSG_FIRSTHDR(&header);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(sizeof(int) * CHANNEL_FDS);
		memcpy(CMSG_DATA(rights), fds, sizeof(int) * CHANNEL_FDS);
	}
	return sendmsg(socket, &header, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int channel_receive(int socket, int flags, struct channel_message *ret_message, int ret_fds[CHANNEL_FDS])
{
	struct iovec iov = { .iov_base = ret_message, .iov_len = sizeof(*ret_message) };
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * CHANNEL_FDS)];
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
				 .msg_controllen = sizeof(control) };
	struct cmsghdr *rights;
	ssize_t n;

	for (int i = 0; i < CHANNEL_FDS; i++)
		ret_fds[i] = -1;
	do {
		n = recvmsg(socket, &header, flags | MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (n == 0)
		return 0;
	rights = CMSG_FIRSTHDR(&header);
	if (rights && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS) {
		if (rights->cmsg_len == CMSG_LEN(sizeof(int) * CHANNEL_FDS))
			memcpy(ret_fds, CMSG_DATA(rights), sizeof(int) * CHANNEL_FDS);
		else if (rights->cmsg_len == CMSG_LEN(sizeof(int)) || rights->cmsg_len == CMSG_LEN(2 * sizeof(int)))
			memcpy(ret_fds, CMSG_DATA(rights), rights->cmsg_len - CMSG_LEN(0));
	}
	if (n != (ssize_t)sizeof(*ret_message) || ret_message->magic != CHANNEL_MAGIC ||
	    (ret_message->status == 0 && ret_fds[CHANNEL_BLOCK] < 0)) {
		for (int i = 0; i < CHANNEL_FDS; i++)
			if (ret_fds[i] >= 0)
				close(ret_fds[i]);
		return -EBADMSG;
	}
	ret_message->text[sizeof(ret_message->text) - 1] = '\0';
	return 1;
}
