/* Processes by descriptor, and closing all descriptors in a spawned one. */
#include "polyfill.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdbool.h>
#include <sys/resource.h>

enum { EBADF_ = 9, EINVAL_ = 22, ENOMEM_ = 12, ESRCH_ = 3, EREMOTE_ = 66, PIDFD_OPEN = 434, MOST = 1 << 16 };

OLD(int, posix_spawn, pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,
    char *const *, char *const *);
OLD(int, posix_spawnp, pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,
    char *const *, char *const *);
OLD(int, posix_spawn_file_actions_addclose, posix_spawn_file_actions_t *, int);

/* One action for each number that a descriptor can have; closing what is not open is no error to posix_spawn. */
NEW(int, posix_spawn_file_actions_addclosefrom_np, posix_spawn_file_actions_t *actions, int first)
{
	struct rlimit limit;
	int fd, error = 0;

	if (first < 0)
		return EBADF_;
	if (kernel(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, ARG(&limit), 0, 0) < 0 || limit.rlim_cur > MOST)
		return ENOMEM_;
	for (fd = first; fd < (int)limit.rlim_cur && !error; fd++)
		error = fairlead_old_posix_spawn_file_actions_addclose(actions, fd);
	return error;
}

typedef int spawn_t(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const *,
		    char *const *);

/* Nobody else may wait for the child before its caller knows it, so its number is still its own. */
static int spawned(spawn_t *spawn, int *ret_pidfd, const char *path, const posix_spawn_file_actions_t *actions,
		   const posix_spawnattr_t *attributes, char *const *words, char *const *environment)
{
	pid_t pid;
	long fd = kernel(PIDFD_OPEN, kernel(SYS_getpid, 0, 0, 0, 0, 0, 0), 0, 0, 0, 0, 0);
	int error;

	if (fd < 0) /* better no child than one without its descriptor */
		return INT(-fd);
	kernel(SYS_close, fd, 0, 0, 0, 0, 0);
	error = spawn(&pid, path, actions, attributes, words, environment);
	if (error || !ret_pidfd)
		return error;
	fd = kernel(PIDFD_OPEN, pid, 0, 0, 0, 0, 0);
	*ret_pidfd = INT(fd);
	return fd < 0 ? INT(-fd) : 0;
}

NEW(int, pidfd_spawn, int *ret_pidfd, const char *path, const posix_spawn_file_actions_t *actions,
    const posix_spawnattr_t *attributes, char *const *words, char *const *environment)
{
	return spawned(fairlead_old_posix_spawn, ret_pidfd, path, actions, attributes, words, environment);
}

NEW(int, pidfd_spawnp, int *ret_pidfd, const char *path, const posix_spawn_file_actions_t *actions,
    const posix_spawnattr_t *attributes, char *const *words, char *const *environment)
{
	return spawned(fairlead_old_posix_spawnp, ret_pidfd, path, actions, attributes, words, environment);
}

/* /proc/self/fdinfo/N has a line "Pid:\t123": -1 when it has ended, 0 when it is of another pid namespace. */
static long line_of(const char *text)
{
	long value = 0;
	bool minus;

	for (; *text; text++) {
		if (text[0] != 'P' || text[1] != 'i' || text[2] != 'd' || text[3] != ':')
			continue;
		text += 4;
		while (*text == '\t' || *text == ' ')
			text++;
		minus = *text == '-';
		for (text += minus; *text >= '0' && *text <= '9'; text++)
			value = value * 10 + *text - '0';
		return minus ? -value : value;
	}
	return -EINVAL_;
}

NEW(pid_t, pidfd_getpid, int fd)
{
	char path[40] = "/proc/self/fdinfo/", digits[12], text[512];
	int count = 0, at = 18, rest = fd;
	long file, size, pid;

	if (fd < 0) {
		errno = EBADF_;
		return -1;
	}
	do
		digits[count++] = (char)('0' + rest % 10);
	while (rest /= 10);
	while (count)
		path[at++] = digits[--count];
	path[at] = 0;
	file = kernel(SYS_openat, AT_FDCWD, ARG(path), O_RDONLY | O_CLOEXEC, 0, 0, 0);
	if (file < 0) {
		errno = EBADF_;
		return -1;
	}
	size = kernel(SYS_read, file, ARG(text), sizeof(text) - 1, 0, 0, 0);
	kernel(SYS_close, file, 0, 0, 0, 0, 0);
	text[size < 0 ? 0 : size] = 0;
	pid = line_of(text);
	if (pid > 0)
		return INT(pid);
	errno = pid == 0 ? EREMOTE_ : pid == -1 ? ESRCH_ : EINVAL_;
	return -1;
}
