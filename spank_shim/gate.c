/* SPDX-License-Identifier: Apache-2.0 */
#include "gate.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "report.h"

#define CONNECT_MS 60000 /* thousands of nodes come at once: the kernel repeats what the hub's queue had no room for */
#define PROTOCOL 1

static void set_option(int fd, int level, int name, int value)
{
	/* Each is for comfort: an answer a little sooner, a dead host noticed at all. */
	if (setsockopt(fd, level, name, &value, sizeof(value)) < 0)
		errno = 0;
}

static int connect_within(int fd, const struct sockaddr *address, socklen_t size)
{
	struct pollfd ready = { .fd = fd, .events = POLLOUT };
	socklen_t err_size = sizeof(int);
	int err = 0, n;

	if (connect(fd, address, size) == 0)
		return 0;
	if (errno != EINPROGRESS)
		return -errno;
	n = poll(&ready, 1, CONNECT_MS);
	if (n <= 0)
		return n == 0 ? -ETIMEDOUT : -errno;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &err_size) < 0)
		return -errno;
	return -err;
}

/* A connected socket, close-on-exec, or -errno. Numbers only: no name service is asked within a task. */
static int reach(const char *host, const char *port)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM }, *found = NULL;
	int fd, err;

	if (getaddrinfo(host, port, &hints, &found) != 0)
		return -EADDRNOTAVAIL;
	fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	err = fd < 0 ? -errno : connect_within(fd, found->ai_addr, found->ai_addrlen);
	freeaddrinfo(found);
	if (!err && fcntl(fd, F_SETFL, 0) < 0)
		err = -errno;
	if (err && fd >= 0)
		close(fd);
	if (err)
		return err;
	set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 30);
	set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
	set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
	return fd;
}

/* One message, whole; what is longer than a line may be is cut. */
__attribute__((format(printf, 2, 3))) static int say(int fd, const char *format, ...)
{
	char line[GATE_LINE_MAX];
	size_t size, sent = 0;
	va_list list;
	ssize_t n;

	va_start(list, format);
	vsnprintf(line, sizeof(line) - 1, format, list);
	va_end(list);
	size = strlen(line);
	line[size++] = '\n';
	while (fd >= 0 && sent < size) {
		n = send(fd, line + sent, size - sent, MSG_NOSIGNAL);
		if (n < 0 && errno != EINTR)
			return -errno;
		sent += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

int gate_open(struct gate *ret_gate, const struct gate_node *node)
{
	const char *colon = strchr(node->where, ':');
	char port[8];
	int err;

	clock_gettime(CLOCK_MONOTONIC, &ret_gate->began);
	ret_gate->fd = -1;
	if (!colon || (size_t)(colon - node->where) >= sizeof(port))
		return -EINVAL;
	snprintf(port, sizeof(port), "%.*s", (int)(colon - node->where), node->where);
	ret_gate->fd = reach(node->host, port);
	if (ret_gate->fd < 0)
		return ret_gate->fd;
	err = say(ret_gate->fd, "hello %d %.128s %u %.256s %.3072s", PROTOCOL, colon + 1, node->index, node->name,
		  strlen(node->nodes) <= 3072 ? node->nodes : "");
	if (err) {
		close(ret_gate->fd);
		ret_gate->fd = -1;
	}
	return err;
}

static unsigned long long microseconds_since(const struct timespec *began)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (unsigned long long)((now.tv_sec - began->tv_sec) * 1000000 + (now.tv_nsec - began->tv_nsec) / 1000);
}

void gate_phase(int fd, const char *phase, const struct timespec *began)
{
	say(fd, "phases %s=%llu", phase, microseconds_since(began));
}

void gate_ready(const struct gate *gate, const char *facts)
{
	say(gate->fd, "ready %llu %s", microseconds_since(&gate->began), facts);
}

void gate_failed(const struct gate *gate, int status, const char *line)
{
	char copy[GATE_LINE_MAX - 64];

	snprintf(copy, sizeof(copy), "%s", line);
	say(gate->fd, "failed %d %s", status, report_printable(copy));
}

void gate_left(int fd)
{
	static const char line[] = "left\n";

	if (send(fd, line, sizeof(line) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return; /* the hub sees the connection's end in any case */
}

int gate_wait(const struct gate *gate)
{
	char line[GATE_LINE_MAX];
	size_t used = 0;
	ssize_t n;
	int status;

	if (gate->fd < 0)
		return 0;
	while (used + 1 < sizeof(line)) {
		n = recv(gate->fd, line + used, 1, 0); /* a few bytes, and none beyond the line */
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EPIPE;
		if (line[used] != '\n') {
			used++;
			continue;
		}
		line[used] = '\0';
		used = 0;
		if (strcmp(line, "go") == 0)
			return 0;
		if (strncmp(line, "stop ", 5) == 0) {
			status = atoi(line + 5);
			return status > 0 && status < 256 ? status : 125;
		}
		/* an answer to something that the engine did not wait for */
	}
	return -EBADMSG;
}
