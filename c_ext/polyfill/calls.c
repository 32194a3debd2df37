/* Functions that are a system call and nothing else. Numbers are those of every processor since Linux 5.1. */
#include "polyfill.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/types.h>
#include <sys/uio.h>

enum {
	CALL_PIDFD_SEND_SIGNAL = 424,
	CALL_OPEN_TREE = 428,
	CALL_MOVE_MOUNT,
	CALL_FSOPEN,
	CALL_FSCONFIG,
	CALL_FSMOUNT,
	CALL_FSPICK,
	CALL_PIDFD_OPEN,
	CALL_PIDFD_GETFD = 438,
	CALL_PROCESS_MADVISE = 440,
	CALL_EPOLL_PWAIT2,
	CALL_MOUNT_SETATTR,
	CALL_PROCESS_MRELEASE = 448,
	CALL_MSEAL = 462,
};

NEW(pid_t, gettid, void)
{
	return INT(kernel(SYS_gettid, 0, 0, 0, 0, 0, 0));
}

NEW(int, tgkill, pid_t process, pid_t thread, int number)
{
	return INT(CALL3(SYS_tgkill, process, thread, number));
}

NEW(int, getcpu, unsigned int *ret_cpu, unsigned int *ret_node)
{
	return INT(CALL3(SYS_getcpu, ret_cpu, ret_node, 0));
}

NEW(int, memfd_create, const char *name, unsigned int flags)
{
	return INT(CALL2(SYS_memfd_create, name, flags));
}

NEW(int, mlock2, const void *start, size_t size, unsigned int flags)
{
	if (!flags)
		return INT(CALL2(SYS_mlock, start, size));
	return INT(CALL3(SYS_mlock2, start, size, flags));
}

NEW(int, mseal, void *start, size_t size, unsigned long flags)
{
	return INT(CALL3(CALL_MSEAL, start, size, flags));
}

NEW(int, pkey_alloc, unsigned int flags, unsigned int rights)
{
	return INT(CALL2(SYS_pkey_alloc, flags, rights));
}

NEW(int, pkey_free, int key)
{
	return INT(CALL1(SYS_pkey_free, key));
}

NEW(int, pkey_mprotect, void *start, size_t size, int protection, int key)
{
	return INT(CALL4(SYS_pkey_mprotect, start, size, protection, key));
}

NEW(int, execveat, int fd, const char *path, char *const words[], char *const environment[], int flags)
{
	return INT(CALL5(SYS_execveat, fd, path, words, environment, flags));
}

/* The kernel's sigset_t has 64 bits. */
NEW(int, epoll_pwait2, int fd, struct epoll_event *ret_events, int count, const struct timespec *timeout,
    const sigset_t *mask)
{
	return INT(cancellable(CALL_EPOLL_PWAIT2, fd, ARG(ret_events), count, ARG(timeout), ARG(mask), 8));
}

NEW(int, fsopen, const char *type, unsigned int flags)
{
	return INT(CALL2(CALL_FSOPEN, type, flags));
}

NEW(int, fsconfig, int fd, unsigned int command, const char *key, const void *value, int number)
{
	return INT(CALL5(CALL_FSCONFIG, fd, command, key, value, number));
}

NEW(int, fsmount, int fd, unsigned int flags, unsigned int attributes)
{
	return INT(CALL3(CALL_FSMOUNT, fd, flags, attributes));
}

NEW(int, fspick, int fd, const char *path, unsigned int flags)
{
	return INT(CALL3(CALL_FSPICK, fd, path, flags));
}

NEW(int, open_tree, int fd, const char *path, unsigned int flags)
{
	return INT(CALL3(CALL_OPEN_TREE, fd, path, flags));
}

NEW(int, move_mount, int from, const char *from_path, int to, const char *to_path, unsigned int flags)
{
	return INT(CALL5(CALL_MOVE_MOUNT, from, from_path, to, to_path, flags));
}

NEW(int, mount_setattr, int fd, const char *path, unsigned int flags, void *attributes, size_t size)
{
	return INT(CALL5(CALL_MOUNT_SETATTR, fd, path, flags, attributes, size));
}

NEW(int, pidfd_open, pid_t process, unsigned int flags)
{
	return INT(CALL2(CALL_PIDFD_OPEN, process, flags));
}

NEW(int, pidfd_getfd, int pidfd, int fd, unsigned int flags)
{
	return INT(CALL3(CALL_PIDFD_GETFD, pidfd, fd, flags));
}

NEW(int, pidfd_send_signal, int pidfd, int number, siginfo_t *info, unsigned int flags)
{
	return INT(CALL4(CALL_PIDFD_SEND_SIGNAL, pidfd, number, info, flags));
}

NEW(ssize_t, process_madvise, int pidfd, const struct iovec *vector, size_t count, int advice, unsigned int flags)
{
	return CALL5(CALL_PROCESS_MADVISE, pidfd, vector, count, advice, flags);
}

NEW(int, process_mrelease, int pidfd, unsigned int flags)
{
	return INT(CALL2(CALL_PROCESS_MRELEASE, pidfd, flags));
}

NEW(int, sched_setattr, pid_t process, void *attributes, unsigned int flags)
{
	return INT(CALL3(SYS_sched_setattr, process, attributes, flags));
}

NEW(int, sched_getattr, pid_t process, void *ret_attributes, unsigned int size, unsigned int flags)
{
	return INT(CALL4(SYS_sched_getattr, process, ret_attributes, size, flags));
}
