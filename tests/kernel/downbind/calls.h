#ifndef CALLS_H
#define CALLS_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SINCE(minor) __GLIBC_PREREQ(2, minor)

extern int failures;

/* what a call returned and errno, if it failed */
#define TOLD(call)                                                              \
	do {                                                                    \
		errno = 0;                                                      \
		long ret_ = (long)(call);                                       \
		printf("%s = %ld, errno %d\n", #call, ret_, ret_ < 0 ? errno : 0); \
	} while (0)

/* a descriptor's number does not matter */
#define FD(call)                                                                \
	do {                                                                    \
		errno = 0;                                                      \
		int fd_ = (int)(call);                                          \
		printf("%s %s, errno %d\n", #call, fd_ < 0 ? "fails" : "opens", fd_ < 0 ? errno : 0); \
		if (fd_ >= 0)                                                   \
			close(fd_);                                             \
	} while (0)

#define HOLDS(condition)                                                        \
	do {                                                                    \
		int holds_ = !!(condition);                                     \
		printf("%s: %d\n", #condition, holds_);                         \
		failures += !holds_;                                            \
	} while (0)

void calls_files(void);
void calls_strings(void);
void calls_system(void);
void calls_threads(void);
void calls_numbers(void);
void calls_math(void);
void calls_bits(void);
void calls_moved(void);
#endif
