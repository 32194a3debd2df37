/* libfairlead-glibc.so: functions that an image's older glibc has not, for host libraries that ask for them.
 *
 * Rules:
 * - fairlead_new_NAME is what NAME does in the newest glibc. The engine's polyfill binds NAME@VERSION to it.
 * - Nothing is linked: system calls are made here, and what must come from the image's glibc is declared in
 *   this file as fairlead_old_NAME, which the polyfill leads to the image's default version of NAME. So the
 *   library asks for no version of anything, and one file serves every image.
 * - No thread-local variables, no constructors, no memory that outlives a call.
 * - A system call that is a cancellation point in glibc is made with asynchronous cancellation, as glibc did
 *   until 2.40.
 */
#ifndef FAIRLEAD_POLYFILL_H
#define FAIRLEAD_POLYFILL_H

#include <locale.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/syscall.h>
#include <time.h>
#include <wchar.h>

struct dl_phdr_info;
struct mallinfo;
struct termios;
struct timespec;

#define NEW(type, name, ...)                                                                        \
	type fairlead_new_##name(__VA_ARGS__);                                                       \
	__attribute__((visibility("default"))) type fairlead_new_##name(__VA_ARGS__)

/* What the image's glibc must have (since 2.17), and what it may have. */
#define OLD(type, name, ...) extern type fairlead_old_##name(__VA_ARGS__)
#define OLD_MAYBE(type, name, ...) extern __attribute__((weak)) type fairlead_old_##name(__VA_ARGS__)

OLD(int *, __errno_location, void);
OLD(void, abort, void);
OLD(int, pthread_setcanceltype, int, int *);
OLD(void *, malloc, size_t);
OLD(void *, realloc, void *, size_t);
OLD(void, free, void *);
OLD(int, isspace, int);
OLD(int, iswspace, wint_t);

#ifdef errno
#undef errno
#endif
#define errno (*fairlead_old___errno_location())

/* The kernel's answer, -errno on failure. */
static inline long kernel(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc 0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory", "cc");
	return x0;
#else
#error "no system calls known for this processor"
#endif
}

/* -errno from the kernel → -1 and errno. */
static inline long done(long ret)
{
	if (ret < 0 && ret > -4096) {
		errno = (int)-ret;
		return -1;
	}
	return ret;
}

#define ARG(value) ((long)(value))
#define CALL6(number, a, b, c, d, e, f) \
	done(kernel(number, ARG(a), ARG(b), ARG(c), ARG(d), ARG(e), ARG(f)))
#define CALL5(number, a, b, c, d, e) CALL6(number, a, b, c, d, e, 0)
#define CALL4(number, a, b, c, d) CALL6(number, a, b, c, d, 0, 0)
#define CALL3(number, a, b, c) CALL6(number, a, b, c, 0, 0, 0)
#define CALL2(number, a, b) CALL6(number, a, b, 0, 0, 0, 0)
#define CALL1(number, a) CALL6(number, a, 0, 0, 0, 0, 0)

/* A call that may be cancelled while it blocks. */
static inline long cancellable(long number, long a, long b, long c, long d, long e, long f)
{
	int type;
	long ret;

	fairlead_old_pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
	ret = kernel(number, a, b, c, d, e, f);
	fairlead_old_pthread_setcanceltype(type, NULL);
	return done(ret);
}

/* sizes that -Wconversion wants said */
#define INT(value) ((int)(value))

#endif
