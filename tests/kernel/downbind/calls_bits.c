#include "calls.h"

#include <inttypes.h>

#if SINCE(39)
#include <stdbit.h>
#define ALL(value)                                                                                       \
	do {                                                                                             \
		EACH(value, uc, unsigned char);                                                           \
		EACH(value, us, unsigned short);                                                          \
		EACH(value, ui, unsigned int);                                                            \
		EACH(value, ul, unsigned long);                                                           \
		EACH(value, ull, unsigned long long);                                                     \
	} while (0)
/* through a pointer, so that no inline version is taken */
#define ONE(name, suffix, type, value)                                                                    \
	do {                                                                                             \
		__typeof__(&stdc_##name##_##suffix) volatile function = &stdc_##name##_##suffix;           \
		printf(" %llu", (unsigned long long)function((type)(value)));                             \
	} while (0)
#define EACH(value, suffix, type)                                                                        \
	do {                                                                                             \
		printf(#suffix " %llx:", (unsigned long long)(type)(value));                              \
		ONE(leading_zeros, suffix, type, value);                                                  \
		ONE(leading_ones, suffix, type, value);                                                   \
		ONE(trailing_zeros, suffix, type, value);                                                 \
		ONE(trailing_ones, suffix, type, value);                                                  \
		ONE(first_leading_zero, suffix, type, value);                                             \
		ONE(first_leading_one, suffix, type, value);                                              \
		ONE(first_trailing_zero, suffix, type, value);                                            \
		ONE(first_trailing_one, suffix, type, value);                                             \
		ONE(count_zeros, suffix, type, value);                                                    \
		ONE(count_ones, suffix, type, value);                                                     \
		ONE(has_single_bit, suffix, type, value);                                                 \
		ONE(bit_width, suffix, type, value);                                                      \
		ONE(bit_floor, suffix, type, value);                                                      \
		if ((type)(value) <= ((type)~(type)0 >> 1) + (type)1)                                     \
			ONE(bit_ceil, suffix, type, value);                                               \
		printf("\n");                                                                            \
	} while (0)
#endif

void calls_bits(void)
{
#if SINCE(39)
	static const unsigned long long values[] = { 0, 1, 2, 3, 5, 127, 128, 129, 255, 256, 0x8000, 0xffff, 0x10001,
						     0x7fffffff, 0x80000000, 0xffffffff, 0x123456789abcdef0,
						     0x7fffffffffffffff, 0x8000000000000000, ~0ULL };
	unsigned int i;

	for (i = 0; i < sizeof(values) / sizeof(*values); i++)
		ALL(values[i]);
#endif
#if SINCE(42)
	/* a name of 2.42 alone, kept for its programs */
	extern uintmax_t uimaxabs_of_42(intmax_t);
	__asm__(".symver uimaxabs_of_42, uimaxabs@GLIBC_2.42");
	unsigned int (*volatile a)(int) = uabs;
	unsigned long (*volatile b)(long) = ulabs;
	unsigned long long (*volatile c)(long long) = ullabs;
	uintmax_t (*volatile d)(intmax_t) = uimaxabs_of_42;

	printf("%u %u %lu %llu %ju\n", a(-5), a(-2147483647 - 1), b(-7), c(-8), d(INTMAX_MIN));
#endif
#if SINCE(43)
	uintmax_t (*volatile e)(intmax_t) = umaxabs;

	printf("%ju %ju\n", e(-9), e(9));
#endif
}
