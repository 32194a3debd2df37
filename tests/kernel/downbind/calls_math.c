#include "calls.h"

#include <math.h>

/* Exact ones are printed bit for bit; rounded ones must agree to a few units in the last place, so they are printed shorter. */
static const double VALUES[] = { 0.0, -0.0, 1.0, -1.0, 0.5, -0.25, 1.5, -2.5, 3.0, 1e-300, -1e-9, 0.3, 1e300, -1e300, 7.75,
				 INFINITY, -INFINITY, NAN, 1023.0, -3.0, 0.1 };
enum { COUNT = sizeof(VALUES) / sizeof(*VALUES) };

#define EXACT(name)                                                                                     \
	printf(#name " %a %a: %a %a %La\n", x, y, name(x, y), (double)name##f((float)x, (float)y),       \
	       name##l((long double)x, (long double)y))
#define CLOSE(name)                                                                                      \
	do {                                                                                             \
		errno = 0;                                                                                \
		double wide_ = name(x);                                                                   \
		int error_ = errno;                                                                       \
		errno = 0;                                                                                \
		float narrow_ = name##f((float)x);                                                        \
		printf(#name " %a: %.14g %d %.5g\n", x, plain(wide_), error_, plain((double)narrow_));      \
	} while (0)

/* A NaN's sign says nothing. */
static double plain(double x)
{
	return isnan(x) ? fabs(x) : x;
}

extern int __issignaling(double), __issignalingf(float), __issignalingl(long double);
#ifdef __x86_64__
extern int __issignalingf128(__float128);
#endif

static void signalling(void)
{
	double (*volatile quiet)(const char *) = nan;
	double value = quiet(""), made;
	unsigned long bits = 0x7ff0000000000001;

	memcpy(&made, &bits, 8);
	printf("%d %d %d ", !!__issignaling(value), !!__issignaling(made), !!__issignaling(1.0));
	printf("%d %d %d ", !!__issignalingf((float)value), !!__issignalingf(INFINITY), !!__issignalingf(2));
	printf("%d %d ", !!__issignalingl((long double)value), !!__issignalingl(INFINITY));
#ifdef __x86_64__
	unsigned long wide[4] = { 1, 0x7fff000000000000, 0, 0x7fff800000000000 };
	__float128 one, other;

	memcpy(&one, wide, 16);
	memcpy(&other, wide + 2, 16);
	printf("%d %d %d", !!__issignalingf128(one), !!__issignalingf128(other), !!__issignalingf128(1));
#endif
	printf("\n");
}

static void gammas(void)
{
	static const double values[] = { 0.5, -0.5, -1.5, 10, 3.25, -2.75 };
	extern int __signgam;
	int i;

	for (i = 0; i < 6; i++) {
		printf("%.12g ", lgamma(values[i]));
		printf("%d %.5g ", __signgam, (double)lgammaf((float)values[i]));
		printf("%d %.12Lg ", __signgam, lgammal((long double)values[i]));
		printf("%d\n", __signgam);
	}
}

void calls_math(void)
{
	int i, j;

	signalling();
	gammas();

	for (i = 0; i < COUNT; i++)
		for (j = 0; j < COUNT; j++) {
			double x = VALUES[i], y = VALUES[j];

#if SINCE(31)
			float fx = (float)x, fy = (float)y;

			printf("order %d %d %d %d\n", totalorder(&x, &y), totalordermag(&x, &y), totalorderf(&fx, &fy),
			       totalordermagf(&fx, &fy));
#endif
#if SINCE(35)
			if (!isnan(x) && !isnan(y)) {
				EXACT(fmaximum);
				EXACT(fminimum);
				EXACT(fmaximum_mag);
				EXACT(fminimum_mag);
			}
			HOLDS(!(isnan(x) || isnan(y)) || (isnan(fmaximum(x, y)) && isnan(fminimum_mag(x, y))));
			if (!isnan(x) || !isnan(y)) {
				EXACT(fmaximum_num);
				EXACT(fminimum_num);
				EXACT(fmaximum_mag_num);
				EXACT(fminimum_mag_num);
			}
#endif
#if SINCE(41)
			printf("atan2pi %.14g %.5g\n", plain(atan2pi(y, x)),
			       plain((double)atan2pif((float)y, (float)x)));
#endif
		}
	for (i = 0; i < COUNT; i++) {
		double x = VALUES[i];

#if SINCE(40)
		CLOSE(exp2m1);
		CLOSE(exp10m1);
		CLOSE(log2p1);
		CLOSE(log10p1);
		CLOSE(logp1);
#endif
#if SINCE(41)
		CLOSE(acospi);
		CLOSE(asinpi);
		CLOSE(atanpi);
		CLOSE(sinpi);
		CLOSE(cospi);
		CLOSE(tanpi);
#endif
#if SINCE(42)
		CLOSE(rsqrt);
#endif
		(void)x;
	}
}
