/* SPDX-License-Identifier: Apache-2.0 */
#include "broker.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

static int ask(int socket, enum broker_op op, const char *word)
{
	struct broker_request request = { .magic = BROKER_MAGIC, .op = op };
	size_t length = word ? strlen(word) : 0;

	if (length >= sizeof(request.word))
		return -EINVAL;
	if (word)
		memcpy(request.word, word, length + 1);
	return send(socket, &request, sizeof(request), MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* One message of an answer; its descriptors, close-on-exec, are put into ret_fds. */
static int receive(int socket, struct broker_answer *ret, int *ret_fds, unsigned int room)
{
	struct iovec iov = { .iov_base = ret, .iov_len = sizeof(*ret) };
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * BROKER_BATCH)];
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
				 .msg_controllen = sizeof(control) };
	struct cmsghdr *rights;
	unsigned int got = 0;
	int fds[BROKER_BATCH];
	ssize_t n;

	do {
		n = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	rights = n ? CMSG_FIRSTHDR(&header) : NULL;
	if (rights && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS) {
		got = (unsigned int)((rights->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(rights), got * sizeof(int));
	}
	if (n != (ssize_t)sizeof(*ret) || ret->magic != BROKER_MAGIC || ret->count != got || got > room ||
	    (header.msg_flags & MSG_CTRUNC)) {
		for (unsigned int i = 0; i < got; i++)
			close(fds[i]);
		if (n == 0)
			return -EPIPE;
		return header.msg_flags & MSG_CTRUNC ? -EMFILE : -EBADMSG;
	}
	memcpy(ret_fds, fds, got * sizeof(int));
	ret->detail[sizeof(ret->detail) - 1] = '\0';
	return 0;
}

int broker_mount(int socket, const char *image, int *ret_fds, char *ret_detail, unsigned int size)
{
	struct broker_answer answer = { 0 };
	unsigned int have = 0, before;
	int err = ask(socket, BROKER_MOUNT, image);

	snprintf(ret_detail, size, "%s", "");
	while (!err) {
		before = have;
		err = receive(socket, &answer, ret_fds + have, BROKER_MAX_LAYERS - have);
		if (err)
			break;
		have += answer.count;
		err = answer.err;
		snprintf(ret_detail, size, "%s", answer.detail);
		if (err || have >= answer.total)
			break;
		if (have == before)
			err = -EBADMSG;
	}
	if (!err)
		return (int)have;
	for (unsigned int i = 0; i < have; i++)
		close(ret_fds[i]);
	return err;
}

/* Ask for one descriptor. */
static int ask_one(int socket, enum broker_op op, const char *word, char *ret_detail, unsigned int size)
{
	struct broker_answer answer = { 0 };
	int fd = -1, err = ask(socket, op, word);

	if (!err)
		err = receive(socket, &answer, &fd, 1);
	if (!err)
		err = answer.err;
	if (!err && fd < 0)
		err = -EBADMSG;
	snprintf(ret_detail, size, "%s", answer.detail);
	return err ? err : fd;
}

int broker_injection(int socket, const char *image, const char *name, char *ret_detail, unsigned int size)
{
	char word[BROKER_WORD];

	if (snprintf(word, sizeof(word), "%s/%s", image, name) >= (int)sizeof(word))
		return -EINVAL;
	return ask_one(socket, BROKER_INJECTION, word, ret_detail, size);
}

int broker_keeper(int socket, const char *image, char *ret_detail, unsigned int size)
{
	return ask_one(socket, BROKER_KEEPER, image, ret_detail, size);
}

int broker_upper(int socket, const char *wanted, char *ret_detail, unsigned int size)
{
	return ask_one(socket, BROKER_UPPER, wanted, ret_detail, size);
}

void broker_end(int socket)
{
	ask(socket, BROKER_END, NULL);
}

void broker_take_no_descriptors(int socket)
{
	const int no = 0;

	setsockopt(socket, SOL_SOCKET, SO_PASSRIGHTS, &no, sizeof(no));
}

int broker_answer(int socket, const struct broker_answer *answer, const int *fds)
{
	struct iovec iov = { .iov_base = (void *)answer, .iov_len = sizeof(*answer) };
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * BROKER_BATCH)] = { 0 };
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *rights;

	if (answer->count > BROKER_BATCH)
		return -EINVAL;
	if (answer->count) {
		header.msg_control = control;
		header.msg_controllen = CMSG_SPACE(sizeof(int) * answer->count);
		rights = CMSG_FIRSTHDR(&header);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(sizeof(int) * answer->count);
		memcpy(CMSG_DATA(rights), fds, sizeof(int) * answer->count);
	}
	return sendmsg(socket, &header, MSG_NOSIGNAL) < 0 ? -errno : 0;
}
