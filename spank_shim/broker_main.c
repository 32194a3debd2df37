/* SPDX-License-Identifier: Apache-2.0
 *
 * fairlead-broker: the only part of Fairlead that runs as root while a job's container is built. slurmstepd starts it
 * for a step that wants a container; it ends when the container stands, and with slurmstepd at the latest.
 *
 *   fairlead-broker STORE UID GID JOB GRACE_S PREFIX UPPER_MAX   descriptor 3: the step's requests (c_ext/broker.h)
 *                                                                descriptor 4: slurmstepd, as a pidfd
 *
 * It mounts the layers that a grant names, by their index or one by one (broker_grant.c), makes an empty file system for
 * what the container writes (broker_upper.c), and starts the storekeeper (broker_keeper.c). It takes from the user one word,
 * the names of an image and of an injection, which must be hexadecimal, or a size, and opens nothing that a user could have made. It never reads a
 * byte of an image itself, never resolves a name by NSS, and holds no lock. Linked statically: nothing of the job's
 * environment or libraries reaches it.
 *
 * The user may keep the other end of the connection, fill it, or not read it: a step has a bounded number of requests,
 * an answer waits a bounded time, and the end of slurmstepd ends everything. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
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
#include "broker_room.h"
#include "broker_upper.h"

/* What a step may have in its life: an engine mounts an image three times at most, and when its task is killed, the next
 * task starts another; a storekeeper is started for an image that is not there, or is damaged. */
enum { SOCKET_FD = 3, LIFE_FD = 4, ANSWER_S = 10, MAX_KEEPERS = 8, MAX_UPPERS = 8, BUDGET = 16 * BROKER_MAX_LAYERS };

struct broker {
	struct site site;
	const char *store, *prefix, *upper_max;
	int store_err; /* why the store cannot be used: told to whoever asks */
	char store_detail[256];
	int idmap;  /* user namespace that maps root to the job's user, or -errno */
	int keeper; /* the last one's pid, 0 before the first */
	int keeper_count;
	struct upper upper; /* what the step's container writes to, once it was asked for */
	int upper_count;    /* how often */
	int budget; /* requests and mounts that are left */
};

static struct grant grant; /* 64 kB: not on the stack */
static int mounts[BROKER_MAX_LAYERS];

static void refuse(int err, const char *detail)
{
	struct broker_answer answer = { .magic = BROKER_MAGIC, .err = err };

	snprintf(answer.detail, sizeof(answer.detail), "%s", detail);
	broker_answer(SOCKET_FD, &answer, NULL);
}

static int open_image(const struct broker *broker, const char *folder, const char *name,
		      unsigned long long *total)
{
	unsigned long long size = 0;
	char path[64 + BROKER_HEX];
	int fd;

	snprintf(path, sizeof(path), "%s/%s.erofs", folder, name);
	fd = site_file(&broker->site, path, &size);
	if (fd >= 0)
		*total += size;
	return fd;
}

static int mount_layer(const struct broker *broker, const char *layer, int idmap, unsigned long long *total)
{
	int fd = open_image(broker, "layers", layer, total), mount;

	if (fd < 0)
		return fd;
	mount = mount_image(&fd, 1, idmap);
	close(fd);
	return mount;
}

/* All layers as one mount, by their index. The kernel looks at them when a file is read, and not before. */
static int mount_index(const struct broker *broker, int idmap)
{
	static int fds[MOUNT_MAX_FILES];
	unsigned long long bytes = 0;
	unsigned int have = 0;
	int mount = 0;

	if (!grant.index[0])
		return -ENOENT;
	for (; have < 1 + grant.count && mount >= 0; have += mount >= 0)
		mount = fds[have] = have ? open_image(broker, "layers", grant.layer[have - 1], &bytes) :
					   open_image(broker, "indexes", grant.index, &bytes);
	if (mount >= 0 && bytes != grant.index_bytes)
		mount = -EUCLEAN;
	if (mount >= 0)
		mount = mount_image(fds, have, idmap);
	while (have)
		close(fds[--have]);
	return mount;
}

/* Mount what the grant names; how many mounts, or -errno with what is wrong. Whatever is wrong with an index, its layers
 * show the same. The kernel mounts an image that is cut short within its files' data, and gives errors only where they
 * are read: hence the sum of the sizes. */
static int mount_granted(const struct broker *broker, int idmap, char *ret_detail, size_t size)
{
	unsigned long long total = 0;
	unsigned int done = 0;
	int err = 0;

	mounts[0] = mount_index(broker, idmap);
	if (mounts[0] >= 0)
		return 1;
	for (; done < grant.count && !err; done += !err) {
		mounts[done] = mount_layer(broker, grant.layer[done], idmap, &total);
		err = mounts[done] < 0 ? mounts[done] : 0;
	}
	if (!err && total == grant.size)
		return (int)done;
	if (err)
		snprintf(ret_detail, size, "%s", grant.layer[done]);
	else
		snprintf(ret_detail, size, "the layers have %llu bytes instead of %llu", total, grant.size);
	while (done > 0)
		close(mounts[--done]);
	return err ? err : -EUCLEAN;
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

static void serve_mount(struct broker *broker, const char *image)
{
	char detail[BROKER_HEX + 64] = "";
	int err, count;

	err = broker->store_err ? broker->store_err : grant_read(&broker->site, image, &grant);
	if (err) {
		refuse(err, broker->store_err ? broker->store_detail : "grant");
		return;
	}
	broker->budget -= (int)grant.count;
	if (broker->idmap < 0) {
		refuse(broker->idmap, "user namespace for the idmapped mount");
		return;
	}
	count = mount_granted(broker, broker->idmap, detail, sizeof(detail));
	if (count < 0)
		refuse(count, detail);
	else
		send_mounts((unsigned int)count);
	while (count > 0)
		close(mounts[--count]);
}

/* The file of an injection that the grant names, as a mount. Its time of use is for gc. */
static int mount_injection(const struct broker *broker, const char *name)
{
	const struct timespec times[2] = { { .tv_nsec = UTIME_NOW }, { .tv_nsec = UTIME_OMIT } };
	unsigned long long bytes = 0;
	unsigned int i = 0;
	int fd, mount;

	while (i < grant.injection_count && strcmp(grant.injection[i].name, name) != 0)
		i++;
	if (i == grant.injection_count)
		return -ENOENT;
	fd = open_image(broker, "injections", name, &bytes);
	if (fd < 0)
		return fd;
	futimens(fd, times);
	mount = bytes == grant.injection[i].bytes ? mount_image(&fd, 1, broker->idmap) : -EUCLEAN;
	close(fd);
	return mount;
}

/* The word is IMAGE/NAME. */
static void serve_injection(struct broker *broker, char *image)
{
	struct broker_answer answer = { .magic = BROKER_MAGIC, .total = 1, .count = 1 };
	char *name = strchr(image, '/');
	int err = broker->store_err, mount;

	if (!name) {
		refuse(-EINVAL, "request");
		return;
	}
	*name++ = '\0';
	if (!err)
		err = grant_read(&broker->site, image, &grant);
	if (!err && broker->idmap < 0)
		err = broker->idmap;
	mount = err ? err : mount_injection(broker, name);
	if (mount < 0) {
		refuse(mount, broker->store_err ? broker->store_detail : "injection");
		return;
	}
	broker_answer(SOCKET_FD, &answer, &mount);
	close(mount);
}

/* The granted image's mounts for a storekeeper, which makes an injection for it; how many, or -errno. */
static int mount_for_keeper(struct broker *broker, const char *image, char *ret_detail, size_t size)
{
	int idmap, count, err = grant_read(&broker->site, image, &grant);

	snprintf(ret_detail, size, "grant");
	if (err)
		return err;
	broker->budget -= (int)grant.count;
	idmap = mount_idmap(broker->site.service, broker->site.service_gid);
	if (idmap < 0)
		return idmap;
	count = mount_granted(broker, idmap, ret_detail, size);
	close(idmap);
	return count;
}

static void serve_keeper(struct broker *broker, const char *image)
{
	struct broker_answer answer = { .magic = BROKER_MAGIC, .total = 1, .count = 1 };
	struct keeper_image given = { .name = image, .mounts = mounts };
	char detail[BROKER_HEX + 64] = "";
	int pid, count = 0, socket = -1;

	if (broker->store_err) {
		refuse(broker->store_err, broker->store_detail);
		return;
	}
	if (broker->keeper_count == MAX_KEEPERS) {
		refuse(-EAGAIN, "too many storekeepers for one step");
		return;
	}
	/* One at a time: who asks for the next has given up the last. */
	if (broker->keeper)
		keeper_end(&broker->site, broker->keeper);
	broker->keeper = 0;
	if (*image)
		count = mount_for_keeper(broker, image, detail, sizeof(detail));
	if (count < 0) {
		refuse(count, detail);
		return;
	}
	given.count = (unsigned int)count;
	pid = keeper_start(&broker->site, broker->prefix, broker->store, &given, &socket);
	while (count > 0)
		close(mounts[--count]);
	if (pid < 0) {
		refuse(pid, "storekeeper");
		return;
	}
	broker->keeper = pid;
	broker->keeper_count++;
	broker_answer(SOCKET_FD, &answer, &socket);
	close(socket);
}

/* A step has one: a task that is elected because the last one was killed gets another mount of the same. */
static void serve_upper(struct broker *broker, const char *wanted)
{
	struct broker_answer answer = { .magic = BROKER_MAGIC, .total = 1, .count = 1 };
	char detail[256] = "too many requests for one step";
	uint64_t bytes;
	int mount, err = broker->upper_count++ < MAX_UPPERS ? 0 : -EAGAIN;

	if (!err && broker->store_err) {
		err = broker->store_err;
		snprintf(detail, sizeof(detail), "%s", broker->store_detail);
	}
	if (!err && broker->upper.device < 0) {
		err = room_for_upper(broker->site.fd, wanted, broker->upper_max, &bytes, detail, sizeof(detail));
		if (!err)
			err = upper_make(&broker->site, bytes, &broker->upper, detail, sizeof(detail));
	}
	if (err) {
		refuse(err, detail);
		return;
	}
	mount = upper_mount(&broker->upper);
	if (mount < 0) {
		refuse(mount, "ext4");
		return;
	}
	broker_answer(SOCKET_FD, &answer, &mount);
	close(mount);
}

static int number(const char *text, unsigned long *ret)
{
	char *end;

	errno = 0;
	*ret = strtoul(text, &end, 10);
	return *end || end == text || errno || *ret >= UINT_MAX;
}

/* Wait for a request; 0 when there will be no more. */
static int next_request(int life, struct broker_request *ret)
{
	struct pollfd ready[] = { { .fd = SOCKET_FD, .events = POLLIN }, { .fd = life, .events = POLLIN } };
	ssize_t n;

	for (;;) {
		if (poll(ready, 2, -1) < 0) {
			if (errno == EINTR)
				continue;
			return 0;
		}
		if (ready[1].revents)
			return 0; /* slurmstepd is gone, and with it the step */
		n = recv(SOCKET_FD, ret, sizeof(*ret), MSG_DONTWAIT);
		if (n >= 0 || (errno != EINTR && errno != EAGAIN))
			break;
	}
	ret->word[sizeof(ret->word) - 1] = '\0';
	return n == (ssize_t)sizeof(*ret) && ret->magic == BROKER_MAGIC && ret->op != BROKER_END;
}

static void serve(struct broker *broker, int life)
{
	const struct timeval patience = { .tv_sec = ANSWER_S };
	struct broker_request request;

	setsockopt(SOCKET_FD, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	broker_take_no_descriptors(SOCKET_FD);
	/* Now, while slurmstepd prepares the step, rather than when somebody waits for mounts. */
	broker->idmap = broker->store_err ? -ENOENT : mount_idmap(broker->site.uid, broker->site.gid);
	for (broker->budget = BUDGET; broker->budget > 0 && next_request(life, &request); broker->budget--) {
		if (request.op == BROKER_MOUNT)
			serve_mount(broker, request.word);
		else if (request.op == BROKER_KEEPER)
			serve_keeper(broker, request.word);
		else if (request.op == BROKER_INJECTION)
			serve_injection(broker, request.word);
		else if (request.op == BROKER_UPPER)
			serve_upper(broker, request.word);
		else
			refuse(-EINVAL, "request");
	}
	if (broker->keeper)
		keeper_end(&broker->site, broker->keeper);
}

int main(int argc, char *argv[])
{
	struct broker broker = { .upper.device = -1 };
	unsigned long uid, gid, job, grace;
	int life = fcntl(LIFE_FD, F_GETFD) < 0 ? -1 : LIFE_FD;

	if (argc != 8 || number(argv[2], &uid) || number(argv[3], &gid) || number(argv[4], &job) ||
	    number(argv[5], &grace) || uid == 0)
		return 125;
	broker.store = argv[1];
	broker.prefix = argv[6];
	broker.upper_max = argv[7];
	broker.site = (struct site){ .uid = (uid_t)uid, .gid = (gid_t)gid, .job = (unsigned int)job, .grace_s = (long)grace };
	signal(SIGPIPE, SIG_IGN);
	umask(077);
	if (chdir("/") < 0)
		return 125;
	broker.store_err = site_open(&broker.site, broker.store, broker.store_detail, sizeof(broker.store_detail));
	serve(&broker, life);
	return 0;
}
