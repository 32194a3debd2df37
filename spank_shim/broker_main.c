/* SPDX-License-Identifier: Apache-2.0
 *
 * fairlead-broker: the only part of Fairlead that runs as root while a job's container is built. slurmstepd starts it
 * for a step that wants a container; it ends when the container stands, and with slurmstepd at the latest.
 *
 *   fairlead-broker STORE UID GID JOB GRACE_S PREFIX     descriptor 3: the step's requests (c_ext/broker.h)
 *
 * It mounts the layers that a grant names (broker_grant.c) and starts the storekeeper (broker_keeper.c). It takes from
 * the user one word, an image's digest, which must be hexadecimal, and opens nothing outside the store. It never reads a
 * byte of an image itself, never resolves a name by NSS, and holds no lock. Linked statically: nothing of the job's
 * environment or libraries reaches it. */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker.h"
#include "broker_grant.h"
#include "broker_keeper.h"
#include "broker_mount.h"

enum { SOCKET_FD = 3, MAX_KEEPERS = 8 };

struct broker {
	struct site site;
	const char *store, *prefix;
	int store_err; /* why the store cannot be used: told to whoever asks */
	char store_detail[256];
	int keepers[MAX_KEEPERS];
	int keeper_count;
};

static struct grant grant; /* 64 kB: not on the stack */
static int mounts[BROKER_MAX_LAYERS];

static void refuse(int err, const char *detail)
{
	struct broker_answer answer = { .magic = BROKER_MAGIC, .err = err };

	snprintf(answer.detail, sizeof(answer.detail), "%s", detail);
	broker_answer(SOCKET_FD, &answer, NULL);
}

static int mount_layer(const struct broker *broker, const char *layer, int idmap)
{
	char path[64 + BROKER_HEX];
	int fd, mount;

	snprintf(path, sizeof(path), "layers/%s.erofs", layer);
	fd = site_file(&broker->site, path);
	if (fd < 0)
		return fd;
	mount = mount_image(fd, idmap);
	close(fd);
	return mount;
}

static void send_mounts(unsigned int count)
{
	struct broker_answer answer = { .magic = BROKER_MAGIC, .total = count };
	unsigned int sent = 0;

	while (sent < count) {
		answer.count = count - sent > BROKER_BATCH ? BROKER_BATCH : count - sent;
		if (broker_answer(SOCKET_FD, &answer, mounts + sent) < 0)
			return;
		sent += answer.count;
	}
}

static void serve_mount(const struct broker *broker, const char *image)
{
	unsigned int done = 0;
	int idmap, err;

	err = broker->store_err ? broker->store_err : grant_read(&broker->site, image, &grant);
	if (err) {
		refuse(err, broker->store_err ? broker->store_detail : "grant");
		return;
	}
	idmap = mount_idmap(broker->site.uid, broker->site.gid);
	if (idmap < 0) {
		refuse(idmap, "user namespace for the idmapped mount");
		return;
	}
	for (; done < grant.count; done++) {
		mounts[done] = mount_layer(broker, grant.layer[done], idmap);
		if (mounts[done] < 0)
			break;
	}
	close(idmap);
	if (done == grant.count)
		send_mounts(done);
	else
		refuse(mounts[done], grant.layer[done]);
	while (done > 0)
		close(mounts[--done]);
}

static void serve_keeper(struct broker *broker)
{
	struct broker_answer answer = { .magic = BROKER_MAGIC, .total = 1, .count = 1 };
	int pid, socket = -1;

	if (broker->store_err) {
		refuse(broker->store_err, broker->store_detail);
		return;
	}
	if (broker->keeper_count == MAX_KEEPERS) {
		refuse(-EAGAIN, "too many storekeepers for one step");
		return;
	}
	pid = keeper_start(&broker->site, broker->prefix, broker->store, &socket);
	if (pid < 0) {
		refuse(pid, "storekeeper");
		return;
	}
	broker->keepers[broker->keeper_count++] = pid;
	broker_answer(SOCKET_FD, &answer, &socket);
	close(socket);
}

static int number(const char *text, unsigned long *ret)
{
	char *end;

	errno = 0;
	*ret = strtoul(text, &end, 10);
	return *end || end == text || errno || *ret >= UINT_MAX;
}

int main(int argc, char *argv[])
{
	struct broker broker = { 0 };
	struct broker_request request;
	unsigned long uid, gid, job, grace;
	ssize_t n;

	if (argc != 7 || number(argv[2], &uid) || number(argv[3], &gid) || number(argv[4], &job) ||
	    number(argv[5], &grace) || uid == 0)
		return 125;
	broker.store = argv[1];
	broker.prefix = argv[6];
	broker.site = (struct site){ .uid = (uid_t)uid, .gid = (gid_t)gid, .job = (unsigned int)job, .grace_s = (long)grace };
	signal(SIGPIPE, SIG_IGN);
	umask(077);
	if (chdir("/") < 0)
		return 125;
	broker.store_err = site_open(&broker.site, broker.store, broker.store_detail, sizeof(broker.store_detail));
	for (;;) {
		n = recv(SOCKET_FD, &request, sizeof(request), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n != (ssize_t)sizeof(request) || request.magic != BROKER_MAGIC || request.op == BROKER_END)
			break;
		request.image[sizeof(request.image) - 1] = '\0';
		if (request.op == BROKER_MOUNT)
			serve_mount(&broker, request.image);
		else if (request.op == BROKER_KEEPER)
			serve_keeper(&broker);
		else
			refuse(-EINVAL, "request");
	}
	for (int i = 0; i < broker.keeper_count; i++)
		keeper_end(broker.keepers[i]);
	return 0;
}
