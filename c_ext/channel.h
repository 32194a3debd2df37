/* SPDX-License-Identifier: Apache-2.0
 *
 * The one message that the engine sends to the task that started it: the outcome, and on success the descriptors of
 * the user namespace, the mount namespace, the launch block, and of the further namespaces that it has of its own. SOCK_SEQPACKET, one message whole or none: end of
 * file without a message means that the engine died. */
#ifndef FAIRLEAD_CHANNEL_H
#define FAIRLEAD_CHANNEL_H

#include <stdint.h>

#define CHANNEL_MAGIC 0x46414952u /* "FAIR" */
#define CHANNEL_FDS 6

enum channel_fd { CHANNEL_USERNS, CHANNEL_MNTNS, CHANNEL_BLOCK, CHANNEL_NETNS, CHANNEL_IPCNS, CHANNEL_UTSNS };

struct channel_message {
	uint32_t magic;
	uint32_t present; /* bit N: descriptor N came along */
	int32_t status; /* 0, or the exit status for every task of the step on this node */
	char text[2048]; /* the line for the user when status is not 0 */
};

/* Send an outcome; fds may be NULL when status is not 0; one that is -1 does not go. 0 or -errno. */
int channel_send(int socket, int status, const char *text, const int *fds);

/* Receive it, the descriptors close-on-exec; flags as for recvmsg: MSG_PEEK leaves the message, so that every task can
 * take its own copies of the descriptors. 1, 0 at end of file, or -errno; fds are -1 where none came. */
int channel_receive(int socket, int flags, struct channel_message *ret_message, int ret_fds[CHANNEL_FDS]);

#endif
