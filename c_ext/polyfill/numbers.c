/* C23's number parsers: those of C99, and the prefix 0b where the base is 0 or 2.
 *
 * Without that prefix, or without a binary digit behind it, the image's own function answers. With it, the digits
 * behind it are the image's to read, in base 2 and without sign; sign and range are settled here.
 */
#include "polyfill.h"

#include <limits.h>
#include <stdbool.h>

enum { ERANGE_ = 34 };

#define OLDS(name, result)                                                                  \
	OLD(result, strto##name, const char *, char **, int);                                \
	OLD(result, strto##name##_l, const char *, char **, int, locale_t);                  \
	OLD(result, wcsto##name, const wchar_t *, wchar_t **, int);                          \
	OLD(result, wcsto##name##_l, const wchar_t *, wchar_t **, int, locale_t);
OLDS(l, long)
OLDS(ll, long long)
OLDS(ul, unsigned long)
OLDS(ull, unsigned long long)
OLD(int, isspace_l, int, locale_t);
OLD(int, iswspace_l, wint_t, locale_t);

#define SPACE(text) fairlead_old_isspace((unsigned char)*(text))
#define SPACE_L(text) fairlead_old_isspace_l((unsigned char)*(text), locale)
#define WIDE_SPACE(text) fairlead_old_iswspace((wint_t) * (text))
#define WIDE_SPACE_L(text) fairlead_old_iswspace_l((wint_t) * (text), locale)

/* Find the digits behind a prefix; NULL if this is no binary number. */
#define DIGITS(name, letter, space, ...)                                                    \
	static const letter *name(const letter *text, int base, bool *ret_minus, ##__VA_ARGS__) \
	{                                                                                   \
		if (base != 0 && base != 2)                                                  \
			return NULL;                                                         \
		while (space(text))                                                          \
			text++;                                                              \
		*ret_minus = *text == '-';                                                   \
		if (*text == '-' || *text == '+')                                            \
			text++;                                                              \
		if (text[0] != '0' || (text[1] != 'b' && text[1] != 'B') ||                  \
		    (text[2] != '0' && text[2] != '1'))                                      \
			return NULL;                                                         \
		return text + 2;                                                             \
	}
DIGITS(digits, char, SPACE)
DIGITS(digits_l, char, SPACE_L, locale_t locale)
DIGITS(wide_digits, wchar_t, WIDE_SPACE)
DIGITS(wide_digits_l, wchar_t, WIDE_SPACE_L, locale_t locale)

static long long with_sign(unsigned long long value, bool minus)
{
	const unsigned long long most = LLONG_MAX;

	if (value > most + minus) {
		errno = ERANGE_;
		return minus ? LLONG_MIN : LLONG_MAX;
	}
	return minus ? (long long)(0 - value) : (long long)value;
}

static unsigned long long without_sign(unsigned long long value, bool minus, int before)
{
	/* Out of range is the greatest number, with a minus as well. */
	if (value == ULLONG_MAX && errno == ERANGE_ && before != ERANGE_)
		return value;
	return minus ? 0 - value : value;
}

#define SIGNED(value) with_sign(value, minus)
#define UNSIGNED(value) unsigned_of(value)

/* long has the range of long long here. */
_Static_assert(LONG_MAX == LLONG_MAX, "64-bit machines only");

#define PARSER(name, old, kind, result, letter, find)                                      \
	NEW(result, __isoc23_##name, const letter *restrict text, letter **restrict ret_end, int base) \
	{                                                                                  \
		bool minus;                                                                 \
		const letter *from = find(text, base, &minus);                              \
                                                                                           \
		if (!from)                                                                  \
			return (result)fairlead_old_##old(text, ret_end, base);             \
		return (result)kind(from, ret_end, minus);                                  \
	}
#define PARSER_L(name, old, kind, result, letter, find)                                    \
	NEW(result, __isoc23_##name, const letter *restrict text, letter **restrict ret_end, int base, \
	    locale_t locale)                                                               \
	{                                                                                  \
		bool minus;                                                                 \
		const letter *from = find(text, base, &minus, locale);                      \
                                                                                           \
		if (!from)                                                                  \
			return (result)fairlead_old_##old(text, ret_end, base, locale);     \
		return (result)kind(from, ret_end, minus);                                  \
	}

static long long narrow_signed(const char *from, char **ret_end, bool minus)
{
	return with_sign(fairlead_old_strtoull(from, ret_end, 2), minus);
}

static unsigned long long narrow_unsigned(const char *from, char **ret_end, bool minus)
{
	int before = errno;
	unsigned long long value;

	errno = 0;
	value = without_sign(fairlead_old_strtoull(from, ret_end, 2), minus, 0);
	if (!errno)
		errno = before;
	return value;
}

static long long wide_signed(const wchar_t *from, wchar_t **ret_end, bool minus)
{
	return with_sign(fairlead_old_wcstoull(from, ret_end, 2), minus);
}

static unsigned long long wide_unsigned(const wchar_t *from, wchar_t **ret_end, bool minus)
{
	int before = errno;
	unsigned long long value;

	errno = 0;
	value = without_sign(fairlead_old_wcstoull(from, ret_end, 2), minus, 0);
	if (!errno)
		errno = before;
	return value;
}

PARSER(strtol, strtol, narrow_signed, long, char, digits)
PARSER(strtoll, strtoll, narrow_signed, long long, char, digits)
PARSER(strtoul, strtoul, narrow_unsigned, unsigned long, char, digits)
PARSER(strtoull, strtoull, narrow_unsigned, unsigned long long, char, digits)
PARSER(strtoimax, strtol, narrow_signed, intmax_t, char, digits)
PARSER(strtoumax, strtoul, narrow_unsigned, uintmax_t, char, digits)
PARSER(wcstol, wcstol, wide_signed, long, wchar_t, wide_digits)
PARSER(wcstoll, wcstoll, wide_signed, long long, wchar_t, wide_digits)
PARSER(wcstoul, wcstoul, wide_unsigned, unsigned long, wchar_t, wide_digits)
PARSER(wcstoull, wcstoull, wide_unsigned, unsigned long long, wchar_t, wide_digits)
PARSER(wcstoimax, wcstol, wide_signed, intmax_t, wchar_t, wide_digits)
PARSER(wcstoumax, wcstoul, wide_unsigned, uintmax_t, wchar_t, wide_digits)
PARSER_L(strtol_l, strtol_l, narrow_signed, long, char, digits_l)
PARSER_L(strtoll_l, strtoll_l, narrow_signed, long long, char, digits_l)
PARSER_L(strtoul_l, strtoul_l, narrow_unsigned, unsigned long, char, digits_l)
PARSER_L(strtoull_l, strtoull_l, narrow_unsigned, unsigned long long, char, digits_l)
PARSER_L(wcstol_l, wcstol_l, wide_signed, long, wchar_t, wide_digits_l)
PARSER_L(wcstoll_l, wcstoll_l, wide_signed, long long, wchar_t, wide_digits_l)
PARSER_L(wcstoul_l, wcstoul_l, wide_unsigned, unsigned long, wchar_t, wide_digits_l)
PARSER_L(wcstoull_l, wcstoull_l, wide_unsigned, unsigned long long, wchar_t, wide_digits_l)
