/* SPDX-License-Identifier: Apache-2.0 */
#include "hub_start.h"

#include "old_headers.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine.h"
#include "gate.h"
#include "options.h"
#include "slurm_api.h"

enum { COOKIE_BYTES = 32, BACKLOG = 65535 /* the kernel's own limit counts */ };
enum { FACTS, LISTENER, LIFE, FDS }; /* run/hub.py: 0, 3 and 4; 1 and 2 are srun's standard error */

struct hub_request {
	const char *prefix, *reference, *report;
	uint32_t nodes, job, step;
	int quiet;
};

struct hub {
	int fds[FDS];
	int alive; /* srun's end of LIFE, open as long as srun lives */
	uint16_t port;
	char cookie[2 * COOKIE_BYTES + 1];
};

static int bound(int fd, int family, uint16_t port)
{
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_ANY_INIT };
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = { INADDR_ANY } };

	return (family == AF_INET6 ? bind(fd, (struct sockaddr *)&six, sizeof(six)) :
				     bind(fd, (struct sockaddr *)&four, sizeof(four))) == 0;
}

/* The site's SrunPortRange is what its firewall lets nodes reach on this host. */
static int bind_in_range(int fd, int family)
{
	uint16_t first, last;
	unsigned int start = 0, count;

	if (!slurm_api_srun_ports(&first, &last))
		return bound(fd, family, 0) ? 0 : -errno;
	count = (unsigned int)last - first + 1;
	if (getrandom(&start, sizeof(start), 0) < 0)
		start = 0;
	for (unsigned int i = 0; i < count; i++)
		if (bound(fd, family, (uint16_t)(first + (start % count + i) % count)))
			return 0;
	return -EADDRINUSE;
}

/* A node that dies without a word is noticed; accepted sockets inherit it. Each is for comfort. */
static void watch_peers(int fd)
{
	static const int options[][3] = { { SOL_SOCKET, SO_KEEPALIVE, 1 }, { IPPROTO_TCP, TCP_KEEPIDLE, 30 },
					  { IPPROTO_TCP, TCP_KEEPINTVL, 10 }, { IPPROTO_TCP, TCP_KEEPCNT, 3 },
					  { IPPROTO_TCP, TCP_NODELAY, 1 } };

	for (size_t i = 0; i < sizeof(options) / sizeof(*options); i++)
		if (setsockopt(fd, options[i][0], options[i][1], &options[i][2], sizeof(int)) < 0)
			return;
}

static int listen_on(int family, uint16_t *ret_port)
{
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0), off = 0, err;
	union {
		struct sockaddr_in6 six;
		struct sockaddr_in four;
	} address;
	socklen_t size = sizeof(address);

	if (fd < 0)
		return -errno;
	if (family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) < 0)
		err = -errno;
	else
		err = bind_in_range(fd, family);
	watch_peers(fd);
	if (!err && (listen(fd, BACKLOG) < 0 || getsockname(fd, (struct sockaddr *)&address, &size) < 0))
		err = -errno;
	if (err) {
		close(fd);
		return err;
	}
	*ret_port = ntohs(family == AF_INET6 ? address.six.sin6_port : address.four.sin_port);
	return fd;
}

static int make_cookie(char ret[2 * COOKIE_BYTES + 1])
{
	unsigned char bytes[COOKIE_BYTES];

	if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
		return -EIO;
	for (size_t i = 0; i < sizeof(bytes); i++)
		snprintf(ret + 2 * i, 3, "%02x", bytes[i]);
	return 0;
}

/* What the hub is to know, as a memory file: a command line would show the cookie to everybody. */
static int facts_file(const struct hub_request *request, const char *cookie)
{
	int fd = memfd_create("fairlead-hub", MFD_CLOEXEC);
	FILE *out = fd < 0 ? NULL : fdopen(fcntl(fd, F_DUPFD_CLOEXEC, 0), "w");

	if (!out) {
		if (fd >= 0)
			close(fd);
		return -errno;
	}
	fprintf(out, "cookie=%s%cnodes=%u%cjob=%u%cstep=%u%cquiet=%d%creport=%s%cref=%s%c", cookie, 0, request->nodes, 0,
		request->job, 0, request->step, 0, request->quiet, 0, request->report ? request->report : "", 0,
		request->reference, 0);
	if (fclose(out) != 0 || lseek(fd, 0, SEEK_SET) < 0) {
		close(fd);
		return -EIO;
	}
	return fd;
}

/* srun has threads: system calls only. */
static _Noreturn void become_hub(const char *python, const char *script, const char **environment, const int given[FDS])
{
	const char *argv[] = { python, "-I", "-S", script, "hub", NULL };
	struct rlimit files;
	sigset_t none;
	int fds[FDS];

	/* Its own session: Ctrl-C is srun's to hear, which ends the step, or does not. So is the SIGTERM of a whole job. */
	syscall(SYS_setsid);
	signal(SIGTERM, SIG_IGN);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max; /* a connection per node */
		setrlimit(RLIMIT_NOFILE, &files);
	}
	for (int i = 0; i < FDS; i++) {
		fds[i] = fcntl(given[i], F_DUPFD, 10);
		if (fds[i] < 0)
			_exit(126);
	}
	if (fcntl(2, F_GETFD) < 0 && open("/dev/null", O_WRONLY) < 0) /* srun 2>&- */
		_exit(126);
	if (dup2(fds[FACTS], 0) < 0 || dup2(2, 1) < 0 || dup2(fds[LISTENER], 3) < 0 || dup2(fds[LIFE], 4) < 0 ||
	    syscall(SYS_close_range, 5, ~0U, 0) < 0)
		_exit(126);
	execve(python, (char *const *)argv, (char *const *)environment);
	_exit(126);
}

/* It is nobody's child, so that srun, which waits for none it does not know, keeps no dead one. */
static int start(const char *python, const char *script, const struct hub *hub)
{
	const char *environment[ENGINE_MAX_ENVIRONMENT];
	pid_t child;

	engine_environment(environ, environment);
	child = fork();
	if (child == 0) {
		if (fork() != 0)
			_exit(0);
		become_hub(python, script, environment, hub->fds);
	}
	if (child < 0)
		return -errno;
	while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
	return 0;
}

static int prepare(const struct hub_request *request, struct hub *ret)
{
	int life[2], fd, err = make_cookie(ret->cookie);

	if (err)
		return err;
	fd = listen_on(AF_INET6, &ret->port);
	if (fd < 0) /* a kernel without IPv6 */
		fd = listen_on(AF_INET, &ret->port);
	if (fd < 0)
		return fd;
	ret->fds[LISTENER] = fd;
	if (pipe2(life, O_CLOEXEC) < 0)
		return -errno;
	ret->fds[LIFE] = life[0];
	ret->alive = life[1];
	ret->fds[FACTS] = facts_file(request, ret->cookie);
	return ret->fds[FACTS] < 0 ? ret->fds[FACTS] : 0;
}

/* 1 where this host has no engine, -errno, 0. */
static int hub_start(const struct hub_request *request)
{
	char python[OPTION_MAX + 64], script[OPTION_MAX + 64], where[2 * COOKIE_BYTES + 16];
	struct hub hub = { .fds = { -1, -1, -1 }, .alive = -1 };
	int err;

	snprintf(python, sizeof(python), "%s/venv/bin/python", request->prefix);
	snprintf(script, sizeof(script), "%s/libexec/fairlead/engine.py", request->prefix);
	if (access(python, X_OK) < 0 || access(script, R_OK) < 0)
		return 1;
	err = prepare(request, &hub);
	if (!err)
		err = start(python, script, &hub);
	for (int i = 0; i < FDS; i++)
		if (hub.fds[i] >= 0)
			close(hub.fds[i]);
	if (err) {
		if (hub.alive >= 0)
			close(hub.alive);
		return err;
	}
	snprintf(where, sizeof(where), "%u:%s", hub.port, hub.cookie);
	setenv(VARIABLE_HUB, where, 1);
	return 0;
}

static int is_off(const char *word)
{
	static const char *const off[] = { "0", "false", "no", "n" }; /* config.py; others are the engine's to refuse */

	for (size_t i = 0; word && i < sizeof(off) / sizeof(*off); i++)
		if (strcasecmp(word, off[i]) == 0)
			return 1;
	return 0;
}

static const char *report_wanted(void)
{
	const char *report = getenv(VARIABLE_REPORT);

	return report && *report ? report : NULL;
}

const char *hub_report_problem(void)
{
	static char line[256];
	const char *report = report_wanted(), *end = report ? strrchr(report, '.') : NULL;

	if (!report || strcmp(report, "text") == 0 || strcmp(report, "json") == 0 || (end && strcmp(end, ".json") == 0))
		return NULL;
	snprintf(line, sizeof(line), "error [usage]: --container-report=%.64s: neither json nor a file's name that ends "
		 "with .json (write --container-report alone for a table)", report);
	return line;
}

const char *hub_open(spank_t spank, const char *prefix, const char *reference)
{
	struct hub_request request = { .prefix = prefix, .reference = reference, .report = report_wanted() };
	const char *quiet = slurm_api_option("quiet");
	static char line[256];
	int err;

	if (spank_get_item(spank, S_JOB_NNODES, &request.nodes) != ESPANK_SUCCESS ||
	    spank_get_item(spank, S_JOB_ID, &request.job) != ESPANK_SUCCESS ||
	    spank_get_item(spank, S_JOB_STEPID, &request.step) != ESPANK_SUCCESS ||
	    (!request.report && (request.nodes < 2 || is_off(getenv("FAIRLEAD_GATE")))))
		return NULL;
	request.quiet = quiet && *quiet >= '1' && *quiet <= '9';
	err = hub_start(&request);
	if (err >= 0)
		return NULL;
	snprintf(line, sizeof(line), "error [gate]: cannot listen for the step's nodes: %s (FAIRLEAD_GATE=0 does without)",
		 strerror(-err));
	return line;
}
