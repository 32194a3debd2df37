/* C23's <stdbit.h> and the unsigned absolute values; what glibc says of the processor. */
#include "polyfill.h"

#include <stdbool.h>

#define NUMBERS(suffix, type)                                                                        \
	enum { width_##suffix = 8 * sizeof(type) };                                                  \
	NEW(unsigned int, stdc_leading_zeros_##suffix, type value)                                   \
	{                                                                                            \
		return value ? (unsigned int)__builtin_clzll(value) - (64U - width_##suffix)          \
			     : (unsigned int)width_##suffix;                                         \
	}                                                                                            \
	NEW(unsigned int, stdc_leading_ones_##suffix, type value)                                    \
	{                                                                                            \
		return fairlead_new_stdc_leading_zeros_##suffix((type)~value);                        \
	}                                                                                            \
	NEW(unsigned int, stdc_trailing_zeros_##suffix, type value)                                  \
	{                                                                                            \
		return value ? (unsigned int)__builtin_ctzll(value) : (unsigned int)width_##suffix;   \
	}                                                                                            \
	NEW(unsigned int, stdc_trailing_ones_##suffix, type value)                                   \
	{                                                                                            \
		return fairlead_new_stdc_trailing_zeros_##suffix((type)~value);                       \
	}                                                                                            \
	NEW(unsigned int, stdc_first_leading_zero_##suffix, type value)                              \
	{                                                                                            \
		return value == (type)~(type)0 ? 0 : fairlead_new_stdc_leading_ones_##suffix(value) + 1; \
	}                                                                                            \
	NEW(unsigned int, stdc_first_leading_one_##suffix, type value)                               \
	{                                                                                            \
		return value ? fairlead_new_stdc_leading_zeros_##suffix(value) + 1 : 0;               \
	}                                                                                            \
	NEW(unsigned int, stdc_first_trailing_zero_##suffix, type value)                             \
	{                                                                                            \
		return value == (type)~(type)0 ? 0 : fairlead_new_stdc_trailing_ones_##suffix(value) + 1; \
	}                                                                                            \
	NEW(unsigned int, stdc_first_trailing_one_##suffix, type value)                              \
	{                                                                                            \
		return value ? fairlead_new_stdc_trailing_zeros_##suffix(value) + 1 : 0;              \
	}                                                                                            \
	NEW(unsigned int, stdc_count_ones_##suffix, type value)                                      \
	{                                                                                            \
		unsigned int ret = 0;                                                                 \
                                                                                                     \
		for (; value; value = (type)(value & (value - 1)))                                    \
			ret++;                                                                        \
		return ret;                                                                           \
	}                                                                                            \
	NEW(unsigned int, stdc_count_zeros_##suffix, type value)                                     \
	{                                                                                            \
		return (unsigned int)width_##suffix - fairlead_new_stdc_count_ones_##suffix(value);   \
	}                                                                                            \
	NEW(bool, stdc_has_single_bit_##suffix, type value)                                          \
	{                                                                                            \
		return value && !(value & (value - 1));                                               \
	}                                                                                            \
	NEW(unsigned int, stdc_bit_width_##suffix, type value)                                       \
	{                                                                                            \
		return (unsigned int)width_##suffix - fairlead_new_stdc_leading_zeros_##suffix(value); \
	}                                                                                            \
	NEW(type, stdc_bit_floor_##suffix, type value)                                               \
	{                                                                                            \
		return value ? (type)(1ULL << (fairlead_new_stdc_bit_width_##suffix(value) - 1)) : (type)0; \
	}                                                                                            \
	NEW(type, stdc_bit_ceil_##suffix, type value)                                                \
	{                                                                                            \
		unsigned int bits = value < 2 ? 0 : fairlead_new_stdc_bit_width_##suffix((type)(value - 1)); \
                                                                                                     \
		return bits >= (unsigned int)width_##suffix ? (type)0 : (type)(1ULL << bits);         \
	}

NUMBERS(uc, unsigned char)
NUMBERS(us, unsigned short)
NUMBERS(ui, unsigned int)
NUMBERS(ul, unsigned long)
NUMBERS(ull, unsigned long long)

#define ABSOLUTE(name, result, type)                                   \
	NEW(result, name, type value)                                   \
	{                                                               \
		return value < 0 ? 0 - (result)value : (result)value;   \
	}
ABSOLUTE(uabs, unsigned int, int)
ABSOLUTE(ulabs, unsigned long, long)
ABSOLUTE(ullabs, unsigned long long, long long)
ABSOLUTE(uimaxabs, uintmax_t, intmax_t)
ABSOLUTE(umaxabs, uintmax_t, intmax_t)

#ifdef __x86_64__
/* What <sys/platform/x86.h> asks: nothing is said to be there, and programs take their plain ways. */
NEW(const unsigned int *, __x86_get_cpuid_feature_leaf, unsigned int leaf)
{
	static const unsigned int nothing[8]; /* struct cpuid_feature */

	(void)leaf;
	return nothing;
}
#endif
