/* Files: the stat family, which was inline code over __xstat until 2.33, and what came with newer kernels. */
#include "polyfill.h"

#include <fcntl.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>

/* On 64-bit machines the kernel's struct stat is glibc's, and so is struct stat64. */
#ifndef __LP64__
#error "the stat family is written for 64-bit machines"
#endif

#define STATS(suffix)                                                                        \
	NEW(int, stat##suffix, const char *path, struct stat##suffix *ret_status)             \
	{                                                                                    \
		return INT(CALL4(SYS_newfstatat, AT_FDCWD, path, ret_status, 0));             \
	}                                                                                    \
	NEW(int, lstat##suffix, const char *path, struct stat##suffix *ret_status)            \
	{                                                                                    \
		return INT(CALL4(SYS_newfstatat, AT_FDCWD, path, ret_status, AT_SYMLINK_NOFOLLOW)); \
	}                                                                                    \
	NEW(int, fstat##suffix, int fd, struct stat##suffix *ret_status)                      \
	{                                                                                    \
		return INT(CALL2(SYS_fstat, fd, ret_status));                                 \
	}                                                                                    \
	NEW(int, fstatat##suffix, int fd, const char *path, struct stat##suffix *ret_status, int flags) \
	{                                                                                    \
		return INT(CALL4(SYS_newfstatat, fd, path, ret_status, flags));               \
	}

STATS()
STATS(64)

NEW(int, mknodat, int fd, const char *path, mode_t mode, dev_t device)
{
	if (device != (dev_t)(unsigned int)device) { /* the kernel has 32 bits for it */
		errno = 22; /* EINVAL */
		return -1;
	}
	return INT(CALL4(SYS_mknodat, fd, path, mode, device));
}

NEW(int, mknod, const char *path, mode_t mode, dev_t device)
{
	return fairlead_new_mknodat(AT_FDCWD, path, mode, device);
}

NEW(int, statx, int fd, const char *restrict path, int flags, unsigned int mask, void *restrict ret_status)
{
	return INT(CALL5(SYS_statx, fd, path, flags, mask, ret_status));
}

NEW(int, renameat2, int from_fd, const char *from, int to_fd, const char *to, unsigned int flags)
{
	return INT(CALL5(SYS_renameat2, from_fd, from, to_fd, to, flags));
}

NEW(ssize_t, copy_file_range, int in, off64_t *in_at, int out, off64_t *out_at, size_t size, unsigned int flags)
{
	return cancellable(SYS_copy_file_range, in, ARG(in_at), out, ARG(out_at), ARG(size), flags);
}

NEW(ssize_t, getdents64, int fd, void *buffer, size_t size)
{
	return CALL3(SYS_getdents64, fd, buffer, size > 0x7fffffff ? 0x7fffffff : size);
}

NEW(ssize_t, preadv2, int fd, const struct iovec *vector, int count, off_t at, int flags)
{
	return cancellable(SYS_preadv2, fd, ARG(vector), count, at, 0, flags);
}

NEW(ssize_t, pwritev2, int fd, const struct iovec *vector, int count, off_t at, int flags)
{
	return cancellable(SYS_pwritev2, fd, ARG(vector), count, at, 0, flags);
}

NEW(ssize_t, preadv64v2, int fd, const struct iovec *vector, int count, off_t at, int flags)
{
	return fairlead_new_preadv2(fd, vector, count, at, flags);
}

NEW(ssize_t, pwritev64v2, int fd, const struct iovec *vector, int count, off_t at, int flags)
{
	return fairlead_new_pwritev2(fd, vector, count, at, flags);
}

#define SYS_close_range_ 436 /* headers of 5.8 and older have no name for what follows */
#define SYS_openat2_ 437

NEW(int, close_range, unsigned int first, unsigned int last, int flags)
{
	return INT(CALL3(SYS_close_range_, first, last, flags));
}

NEW(int, openat2, int fd, const char *path, const void *how, size_t size)
{
	return INT(cancellable(SYS_openat2_, fd, ARG(path), ARG(how), ARG(size), 0, 0));
}

NEW(void, closefrom, int first)
{
	unsigned int from = first < 0 ? 0 : (unsigned int)first;
	struct rlimit limit;
	long fd;

	if (kernel(SYS_close_range_, from, ~0U, 0, 0, 0, 0) == 0)
		return;
	/* Before Linux 5.9. A descriptor above a lowered limit stays open; there is no way to see it without /proc. */
	if (kernel(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, ARG(&limit), 0, 0) < 0)
		fairlead_old_abort();
	for (fd = from; fd < (long)limit.rlim_cur; fd++)
		kernel(SYS_close, fd, 0, 0, 0, 0, 0);
}
