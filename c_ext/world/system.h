/* SPDX-License-Identifier: Apache-2.0
 *
 * What the world check needs of the kernel, without a C library: it is loaded into programs of any, and a reference to a
 * versioned symbol would tie it to one. Not for other machines: there the library is not built. */
#ifndef FAIRLEAD_WORLD_SYSTEM_H
#define FAIRLEAD_WORLD_SYSTEM_H

#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>

static inline long system_call(long number, long a, long b, long c, long d)
{
#if defined(__x86_64__)
	register long fourth __asm__("r10") = d;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
			 : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
#else
#error "no system calls for this machine"
#endif
}

/* Open, read into text as a string, close; the length or -errno. */
static inline long system_read_file(const char *path, char *text, size_t size)
{
	long fd = system_call(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0), n;

	if (fd < 0)
		return fd;
	n = system_call(SYS_read, fd, (long)text, (long)size - 1, 0);
	system_call(SYS_close, fd, 0, 0, 0);
	text[n < 0 ? 0 : n] = '\0';
	return n;
}

static inline long system_create(const char *path)
{
	long fd = system_call(SYS_openat, AT_FDCWD, (long)path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd >= 0)
		system_call(SYS_close, fd, 0, 0, 0);
	return fd;
}

/* The path of an open file, all symbolic links resolved. */
static inline long system_resolve(const char *path, char *text, size_t size)
{
	char link[32] = "/proc/self/fd/", digits[12];
	long fd = system_call(SYS_openat, AT_FDCWD, (long)path, O_PATH | O_CLOEXEC, 0), n;
	size_t count = 0, at = sizeof("/proc/self/fd/") - 1;

	if (fd < 0)
		return fd;
	for (long rest = fd; !count || rest; rest /= 10)
		digits[count++] = (char)('0' + rest % 10);
	while (count)
		link[at++] = digits[--count];
	link[at] = '\0';
	n = system_call(SYS_readlinkat, AT_FDCWD, (long)link, (long)text, (long)size - 1);
	system_call(SYS_close, fd, 0, 0, 0);
	text[n < 0 ? 0 : n] = '\0';
	return n;
}

/* handler must not return. Source: the kernel's struct sigaction, on both machines; x86_64 insists on a restorer. */
static inline void system_on_signal(int number, void (*handler)(int))
{
	struct {
		void (*handler)(int);
		unsigned long flags;
		void (*restorer)(int);
		unsigned long mask;
	} action = { handler, 0x04000000, handler, 0 };

	system_call(SYS_rt_sigaction, number, (long)&action, 0, sizeof(action.mask));
}

static inline void system_sleep_ms(long ms)
{
	struct timespec time = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	system_call(SYS_nanosleep, (long)&time, 0, 0, 0);
}

static inline _Noreturn void system_exit(int status)
{
	for (;;)
		system_call(SYS_exit_group, status, 0, 0, 0);
}

#endif
