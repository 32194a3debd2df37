/* What the compiler may call by itself. Hidden: nobody else in the process is led here. */
#include "polyfill.h"

void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memset(void *to, int value, size_t size);

__attribute__((visibility("hidden"))) void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
	char *out = to;
	const char *in = from;

	while (size--)
		*out++ = *in++;
	return to;
}

__attribute__((visibility("hidden"))) void *memset(void *to, int value, size_t size)
{
	char *out = to;

	while (size--)
		*out++ = (char)value;
	return to;
}
