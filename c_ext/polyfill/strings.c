/* Strings and memory. */
#include "polyfill.h"

#include <stdbool.h>

OLD(void, __chk_fail, void);
OLD(size_t, wcslen, const wchar_t *);
OLD(size_t, strlen, const char *);

#define COPIERS(letter, length, copy, append)                                                   \
	NEW(size_t, copy, letter *restrict to, const letter *restrict from, size_t room)          \
	{                                                                                        \
		size_t size = fairlead_old_##length(from), take = size < room ? size : room - 1, i; \
                                                                                                 \
		if (!room)                                                                        \
			return size;                                                              \
		for (i = 0; i < take; i++)                                                        \
			to[i] = from[i];                                                          \
		to[take] = 0;                                                                     \
		return size;                                                                      \
	}                                                                                        \
	NEW(size_t, append, letter *restrict to, const letter *restrict from, size_t room)        \
	{                                                                                        \
		size_t have = 0;                                                                  \
                                                                                                 \
		while (have < room && to[have])                                                   \
			have++;                                                                   \
		return have + fairlead_new_##copy(to + have, from, room - have);                  \
	}                                                                                        \
	NEW(size_t, __##copy##_chk, letter *restrict to, const letter *restrict from, size_t room, \
	    size_t object)                                                                       \
	{                                                                                        \
		if (object < room)                                                                \
			fairlead_old___chk_fail();                                                \
		return fairlead_new_##copy(to, from, room);                                       \
	}                                                                                        \
	NEW(size_t, __##append##_chk, letter *restrict to, const letter *restrict from, size_t room, \
	    size_t object)                                                                       \
	{                                                                                        \
		if (object < room)                                                                \
			fairlead_old___chk_fail();                                                \
		return fairlead_new_##append(to, from, room);                                     \
	}

COPIERS(char, strlen, strlcpy, strlcat)
COPIERS(wchar_t, wcslen, wcslcpy, wcslcat)

/* Not to be left out by the compiler, although nobody reads what is written. */
static void clear(void *start, int value, size_t size)
{
	char *at = start;

	while (size--)
		*at++ = (char)value;
	__asm__ volatile("" : : "r"(start) : "memory");
}

NEW(void, explicit_bzero, void *start, size_t size)
{
	clear(start, 0, size);
}

NEW(void, __explicit_bzero_chk, void *start, size_t size, size_t object)
{
	if (object < size)
		fairlead_old___chk_fail();
	clear(start, 0, size);
}

NEW(void *, memset_explicit, void *start, int value, size_t size)
{
	clear(start, value, size);
	return start;
}

NEW(void *, __memset_explicit_chk, void *start, int value, size_t size, size_t object)
{
	if (object < size)
		fairlead_old___chk_fail();
	clear(start, value, size);
	return start;
}

NEW(void *, reallocarray, void *old, size_t count, size_t size)
{
	size_t bytes;

	if (__builtin_mul_overflow(count, size, &bytes)) {
		errno = 12; /* ENOMEM */
		return NULL;
	}
	return fairlead_old_realloc(old, bytes);
}

NEW(void, free_sized, void *old, size_t size)
{
	(void)size;
	fairlead_old_free(old);
}

NEW(void, free_aligned_sized, void *old, size_t align, size_t size)
{
	(void)align;
	(void)size;
	fairlead_old_free(old);
}

NEW(size_t, memalignment, const void *pointer)
{
	uintptr_t value = (uintptr_t)pointer;

	return value & (0 - value);
}

struct counts {
	int value[10];
};
struct counts2 {
	size_t value[10];
};
OLD(struct counts, mallinfo, void);

/* The image's counts have 32 bits and wrap around. */
NEW(struct counts2, mallinfo2, void)
{
	struct counts old = fairlead_old_mallinfo();
	struct counts2 ret;
	int i;

	for (i = 0; i < 10; i++)
		ret.value[i] = (unsigned int)old.value[i];
	return ret;
}

OLD(const char *, inet_ntop, int, const void *, char *, unsigned int);
OLD(int, inet_pton, int, const char *, void *);

NEW(const char *, __inet_ntop_chk, int family, const void *address, char *text, unsigned int size, size_t object)
{
	if (object < size)
		fairlead_old___chk_fail();
	return fairlead_old_inet_ntop(family, address, text, size);
}

NEW(int, __inet_pton_chk, int family, const char *text, void *address, size_t object)
{
	size_t size = family == 2 ? 4 : family == 10 ? 16 : 0; /* AF_INET, AF_INET6 */

	if (object < size)
		fairlead_old___chk_fail();
	return fairlead_old_inet_pton(family, text, address);
}
