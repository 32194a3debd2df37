/* SPDX-License-Identifier: Apache-2.0
 *
 * A grant: the storekeeper's word that a user may mount an image, and of which layers it consists. The broker mounts
 * what a grant names and nothing else. engine/fairlead/shared/site.py draws the store and the file.
 *
 * A file of the store is trusted only as far as its descriptor shows: a regular file of the service account, in the
 * store's own directories (no symbolic link on the way), writable by nobody else. */
#ifndef FAIRLEAD_BROKER_GRANT_H
#define FAIRLEAD_BROKER_GRANT_H

#include <sys/types.h>

#include "broker.h"

struct site {
	int fd;	       /* the store's directory, O_PATH */
	uid_t service; /* who owns it: the account of the storekeeper */
	gid_t service_gid;
	uid_t uid; /* the job's user */
	gid_t gid;
	unsigned int job;
	long grace_s; /* how long a grant holds for other jobs of the same user */
};

enum { GRANT_MAX_INJECTIONS = 16 };

struct injection {
	char name[BROKER_HEX + 1];
	unsigned long long bytes; /* of its file */
};

struct grant {
	char index[BROKER_HEX + 1];	/* of the layers together; empty: there is none */
	unsigned long long index_bytes; /* of its file and theirs together */
	unsigned int count;
	unsigned long long size; /* bytes of all layers' files together, when access was proven */
	char layer[BROKER_MAX_LAYERS][BROKER_HEX + 1];
	unsigned int injection_count; /* of the host's MPI into this image */
	struct injection injection[GRANT_MAX_INJECTIONS];
};

/* Open the store and see whose it is. 0 or -errno with detail. */
int site_open(struct site *site, const char *path, char *ret_detail, unsigned int size);

/* Open a file of the store that the service account wrote, O_RDONLY; or -errno: -EPERM when it is not what it must be.
 * ret_size, if it is there: how many bytes the file has. */
int site_file(const struct site *site, const char *path, unsigned long long *ret_size);

/* Read this user's grant for an image. 0; -ENOENT: none, or its time is over; -EPERM, -EBADMSG: not to be trusted.
 * A grant that is used gets a new access time and its job a lease, which gc reads. */
int grant_read(const struct site *site, const char *image, struct grant *ret_grant);

#endif
