/* SPDX-License-Identifier: Apache-2.0
 *
 * What a step's user may ask of the broker (spank_shim/broker_main.c), the root process that mounts for a container while
 * it is built: one request, one answer, over SOCK_SEQPACKET. Descriptors come with the answer.
 *
 *   MOUNT IMAGE   the layers of an image that this user was granted, as detached mounts idmapped to the user, in the
 *                 image's order, lowest first; several messages when there are many. Or all of them as one, where the
 *                 store has an index of them
 *   INJECTION IMAGE/NAME
 *                 the host's MPI laid out for an image, which the grant for that image names, as a mount like a layer's
 *   UPPER SIZE    an empty file system on the node's disk as a detached mount, which belongs to the user and has room for
 *                 SIZE: "8G", "20%" of what is free, or empty; a step has one, which is mounted anew at each request
 *   KEEPER        a connection to a new storekeeper, which fetches and converts (engine/fairlead/shared/keeper.py)
 *   KEEPER IMAGE  a connection to a new storekeeper that has the granted image's layers as mounts of its own, and makes
 *                 an INJECTION for them
 *   END           nothing more is needed: the broker ends */
#ifndef FAIRLEAD_BROKER_H
#define FAIRLEAD_BROKER_H

#include <stdint.h>

#define BROKER_MAGIC 0x46424b31u /* "FBK1" */
#define BROKER_MAX_LAYERS 500	 /* overlayfs: OVL_MAX_STACK */
#define BROKER_BATCH 128	 /* descriptors in one message; the kernel's bound is 253 */
#define BROKER_HEX 128		 /* characters of the longest digest, sha512 */
#define BROKER_WORD (2 * BROKER_HEX + 2)

enum broker_op { BROKER_MOUNT = 1, BROKER_KEEPER, BROKER_END, BROKER_UPPER, BROKER_INJECTION };

struct broker_request {
	uint32_t magic;
	uint32_t op;
	char word[BROKER_WORD]; /* MOUNT, KEEPER: a manifest's digest without its algorithm; UPPER: the size */
};

struct broker_answer {
	uint32_t magic;
	int32_t err;	/* 0 or -errno; -ENOENT: not granted, or not any more; -EACCES likewise, with detail */
	uint32_t total; /* descriptors in all messages of this answer */
	uint32_t count; /* in this one */
	char detail[512];
};

/* Ask for an image's mounts. ret_fds has room for BROKER_MAX_LAYERS. The number of mounts, or -errno with detail (which
 * may be empty) filled. */
int broker_mount(int socket, const char *image, int *ret_fds, char *ret_detail, unsigned int size);

/* Ask for an injection by its name: a detached mount, close-on-exec, or -errno with detail: -ENOENT the grant names none
 * of that name, or it was removed. */
int broker_injection(int socket, const char *image, const char *name, char *ret_detail, unsigned int size);

/* Ask for a storekeeper, with the mounts of an image unless image is empty: a connected stream socket, close-on-exec, or
 * -errno with detail. */
int broker_keeper(int socket, const char *image, char *ret_detail, unsigned int size);

/* Ask for what the container may write to: a detached mount, close-on-exec, or -errno with detail: -ENOSPC too little is
 * free, -EDQUOT the site allows less. */
int broker_upper(int socket, const char *wanted, char *ret_detail, unsigned int size);

/* Say that nothing more is needed; a broker that is gone already is no error. */
void broker_end(int socket);

/* Let nobody at the other end put descriptors into the connection (Linux 6.16; before, they are dropped unread): closing
 * one may take as long as its owner likes, a socket that lingers for instance. */
void broker_take_no_descriptors(int socket);

/* Send an answer's one message with its descriptors (the broker's side). 0 or -errno. */
int broker_answer(int socket, const struct broker_answer *answer, const int *fds);

#endif
