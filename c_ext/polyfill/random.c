/* Random numbers: always the kernel's. glibc buffers them since 2.36; nothing shows but the speed. */
#include "polyfill.h"

#include <fcntl.h>

enum { EINTR_ = 4, EIO_ = 5, AT_ONCE = 256 /* the kernel never cuts these short */ };

NEW(ssize_t, getrandom, void *buffer, size_t size, unsigned int flags)
{
	return cancellable(SYS_getrandom, ARG(buffer), ARG(size), flags, 0, 0, 0);
}

NEW(int, getentropy, void *buffer, size_t size)
{
	char *at = buffer;

	if (size > AT_ONCE) {
		errno = EIO_;
		return -1;
	}
	while (size) {
		long got = kernel(SYS_getrandom, ARG(at), ARG(size), 0, 0, 0, 0);

		if (got == -EINTR_)
			continue;
		if (got <= 0) {
			errno = got ? INT(-got) : EIO_;
			return -1;
		}
		at += got;
		size -= (size_t)got;
	}
	return 0;
}

/* arc4random cannot fail, so a kernel that gives nothing ends the process, as in glibc. */
NEW(void, arc4random_buf, void *buffer, size_t size)
{
	char *at = buffer;

	while (size) {
		size_t part = size < AT_ONCE ? size : AT_ONCE;

		if (fairlead_new_getentropy(at, part) < 0)
			fairlead_old_abort();
		at += part;
		size -= part;
	}
}

NEW(uint32_t, arc4random, void)
{
	uint32_t value;

	fairlead_new_arc4random_buf(&value, sizeof(value));
	return value;
}

/* Below bound, each value as likely: numbers of just enough bits, thrown away until one fits. */
NEW(uint32_t, arc4random_uniform, uint32_t bound)
{
	uint32_t mask, value;

	if (bound < 2)
		return 0;
	mask = UINT32_MAX >> __builtin_clz(bound - 1);
	do
		value = fairlead_new_arc4random() & mask;
	while (value >= bound);
	return value;
}
