/* Additions to libm whose results are exact, or are rounded once from a wider type.
 *
 * The functions over double are computed in long double with the image's libm and rounded: within one unit in the last
 * place. Those over long double are not offered, since nothing wider is there.
 */
#include "polyfill.h"

enum { EDOM_ = 33, ERANGE_ = 34 };

#define QUIET(x, y) ((x) + (y)) /* a NaN that is quiet, with the exception for a signalling one */
#define IS_NAN(x) ((x) != (x))

/* IEEE 754-2019 maximum and minimum: a NaN wins; of the _num kind, a number wins over a NaN; -0 is below +0. */
#define EXTREMES(suffix, type, sign, absolute)                                                          \
	static type pick_max##suffix(type x, type y)                                                    \
	{                                                                                               \
		return x > y ? x : y > x ? y : sign(x) ? y : x;                                          \
	}                                                                                               \
	static type pick_min##suffix(type x, type y)                                                    \
	{                                                                                               \
		return x < y ? x : y < x ? y : sign(x) ? x : y;                                          \
	}                                                                                               \
	EXTREME(fmaximum, suffix, type, max, NONE)                                                      \
	EXTREME(fminimum, suffix, type, min, NONE)                                                      \
	EXTREME(fmaximum_mag, suffix, type, max, absolute)                                              \
	EXTREME(fminimum_mag, suffix, type, min, absolute)

#define NONE(x) 0
#define EXTREME(name, suffix, type, which, size)                                                        \
	NEW(type, name##suffix, type x, type y)                                                         \
	{                                                                                               \
		type a = size(x), b = size(y);                                                           \
                                                                                                        \
		if (IS_NAN(x) || IS_NAN(y))                                                              \
			return QUIET(x, y);                                                              \
		if (a != b)                                                                              \
			return pick_##which##suffix(a, b) == a ? x : y;                                  \
		return pick_##which##suffix(x, y);                                                       \
	}                                                                                               \
	NEW(type, name##_num##suffix, type x, type y)                                                   \
	{                                                                                               \
		if (IS_NAN(x) && IS_NAN(y))                                                              \
			return QUIET(x, y);                                                              \
		if (IS_NAN(x) || IS_NAN(y)) {                                                            \
			volatile type raised = QUIET(x, y);                                              \
                                                                                                        \
			(void)raised;                                                                    \
			return IS_NAN(x) ? y : x;                                                        \
		}                                                                                        \
		return fairlead_new_##name##suffix(x, y);                                                \
	}
EXTREMES(, double, __builtin_signbit, __builtin_fabs)
EXTREMES(f, float, __builtin_signbit, __builtin_fabsf)
EXTREMES(l, long double, __builtin_signbit, __builtin_fabsl)

OLD(long double, expm1l, long double);
OLD(long double, log1pl, long double);
OLD(long double, acosl, long double);
OLD(long double, asinl, long double);
OLD(long double, atanl, long double);
OLD(long double, atan2l, long double, long double);
OLD(long double, sqrtl, long double);

#define LN2 0.693147180559945309417232121458176568L
#define LN10 2.302585092994045684017991454684364208L
#define PI 3.141592653589793238462643383279502884L

/* Too great for the type that it is rounded to: that is this function's error, not the wider one's; and not every
 * older libm says EDOM.
 */
#define ROUNDED(type, wide, finite)                                                                     \
	do {                                                                                            \
		type ret_ = (type)(wide);                                                                \
                                                                                                        \
		if (__builtin_isinf(ret_) && (finite))                                                   \
			errno = ERANGE_;                                                                 \
		if (IS_NAN(ret_) && !IS_NAN(value))                                                      \
			errno = EDOM_;                                                                   \
		return ret_;                                                                             \
	} while (0)

#define SINGLE(name, expression)                                                                        \
	NEW(double, name, double value)                                                                 \
	{                                                                                               \
		long double x = value;                                                                   \
                                                                                                        \
		ROUNDED(double, expression, !__builtin_isinf(value));                                    \
	}                                                                                               \
	NEW(float, name##f, float value)                                                                \
	{                                                                                               \
		long double x = value;                                                                   \
                                                                                                        \
		ROUNDED(float, expression, !__builtin_isinf(value));                                     \
	}

SINGLE(exp2m1, fairlead_old_expm1l(x *LN2))
SINGLE(exp10m1, fairlead_old_expm1l(x *LN10))
SINGLE(log2p1, fairlead_old_log1pl(x) / LN2)
SINGLE(log10p1, fairlead_old_log1pl(x) / LN10)
SINGLE(acospi, fairlead_old_acosl(x) / PI)
SINGLE(asinpi, fairlead_old_asinl(x) / PI)
SINGLE(atanpi, fairlead_old_atanl(x) / PI)
SINGLE(rsqrt, 1 / fairlead_old_sqrtl(x))

NEW(double, atan2pi, double y, double x)
{
	return (double)(fairlead_old_atan2l(y, x) / PI);
}

NEW(float, atan2pif, float y, float x)
{
	return (float)(fairlead_old_atan2l(y, x) / PI);
}

OLD(long double, sinl, long double);

/* sin(pi x), with x reduced exactly first; the greatest numbers are even integers. */
static long double sine(long double x)
{
	long double rest = __builtin_fabsl(x) < 0x1p53L ? x - 2 * (long double)(int64_t)(x / 2) : 0 * x;

	if (rest > 0.5L && rest < 1.5L)
		rest = 1 - rest;
	else if (rest < -0.5L && rest > -1.5L)
		rest = -1 - rest;
	else if (rest >= 1.5L)
		rest -= 2;
	else if (rest <= -1.5L)
		rest += 2;
	if (rest == 0)
		return __builtin_copysignl(0, x);
	return fairlead_old_sinl(PI * rest);
}

static long double cosine(long double x)
{
	long double size = __builtin_fabsl(x), rest = size < 0x1p53L ? size - 2 * (long double)(int64_t)(size / 2) : 0;

	if (rest > 1)
		rest = 2 - rest;
	return rest == 0.5L ? 0 : fairlead_old_sinl(PI * (0.5L - rest));
}

static long double checked(long double x, long double (*function)(long double))
{
	if (__builtin_isinf(x)) {
		errno = EDOM_;
		return x - x;
	}
	return IS_NAN(x) ? x + x : function(x);
}

static long double tangent(long double x)
{
	return sine(x) / cosine(x);
}

SINGLE(sinpi, checked(x, sine))
SINGLE(cospi, checked(x, cosine))
SINGLE(tanpi, checked(x, tangent))

/* The sign goes to a variable of its own since 2.23, which is the polyfill's where the image has none. */
extern __attribute__((weak)) int *fairlead_data___signgam;

#define LGAMMA(suffix, type)                                                                            \
	OLD(type, lgamma##suffix##_r, type, int *);                                                     \
	NEW(type, lgamma##suffix##__2_23, type x)                                                       \
	{                                                                                               \
		int sign = 0;                                                                            \
		type ret = fairlead_old_lgamma##suffix##_r(x, &sign);                                    \
                                                                                                        \
		if (&fairlead_data___signgam)                                                            \
			*fairlead_data___signgam = sign;                                                  \
		return ret;                                                                              \
	}
LGAMMA(, double)
LGAMMA(f, float)
LGAMMA(l, long double)

/* A NaN whose quiet bit is clear (2.18; 2.26 for 128 bits). */
NEW(int, __issignaling, double x)
{
	union {
		double value;
		uint64_t bits;
	} u = { x };

	return IS_NAN(x) && !(u.bits >> 51 & 1);
}

NEW(int, __issignalingf, float x)
{
	union {
		float value;
		uint32_t bits;
	} u = { x };

	return IS_NAN(x) && !(u.bits >> 22 & 1);
}

#ifdef __x86_64__
NEW(int, __issignalingl, long double x)
{
	union {
		long double value;
		uint64_t bits[2];
	} u = { x };

	/* An unnormal counts as one, as in glibc: every operation on it is invalid. */
	if ((u.bits[1] & 0x7fff) && !(u.bits[0] >> 63))
		return 1;
	return IS_NAN(x) && !(u.bits[0] >> 62 & 1);
}

NEW(int, __issignalingf128, __float128 x)
{
	union {
		__float128 value;
		uint64_t bits[2];
	} u = { x };
	uint64_t high = u.bits[1] & 0x7fffffffffffffff;

	return (high > 0x7fff000000000000 || (high == 0x7fff000000000000 && u.bits[0])) && !(high >> 47 & 1);
}
#endif

/* Since 2.31 by pointer: the order of the bit patterns, sign and magnitude. */
#define ORDERS(suffix, type, bits, top)                                                                  \
	static int order##suffix(bits x, bits y)                                                        \
	{                                                                                               \
		x = x >> (top) ? (bits)~x : x | (bits)1 << (top);                                        \
		y = y >> (top) ? (bits)~y : y | (bits)1 << (top);                                        \
		return x <= y;                                                                           \
	}                                                                                               \
	NEW(int, totalorder##suffix##__2_31, const bits *x, const bits *y)                              \
	{                                                                                               \
		return order##suffix(*x, *y);                                                            \
	}                                                                                               \
	NEW(int, totalordermag##suffix##__2_31, const bits *x, const bits *y)                           \
	{                                                                                               \
		bits mask = ((bits)1 << (top)) - 1;                                                      \
                                                                                                        \
		return order##suffix(*x & mask, *y & mask);                                              \
	}
ORDERS(, double, uint64_t, 63)
ORDERS(f, float, uint32_t, 31)
