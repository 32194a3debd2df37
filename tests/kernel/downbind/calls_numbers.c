#include "calls.h"

#include <inttypes.h>
#include <locale.h>
#include <wchar.h>

/* With headers of 2.38 and later these are __isoc23_*: the prefix 0b is read. */
static const char *const TEXTS[] = {
	"0", "12", "-12", " \t+7x", "0x1f", "0X", "0b101", "0B11", "-0b101", "+0b1", "0b", "0b2", "0b12", " 0b10z", "077", "08",
	"", "-", "b1", "00b1", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809",
	"18446744073709551615", "18446744073709551616", "-18446744073709551616", "99999999999999999999999",
	"0b111111111111111111111111111111111111111111111111111111111111111",
	"-0b1000000000000000000000000000000000000000000000000000000000000000",
	"-0b1000000000000000000000000000000000000000000000000000000000000001",
	"0b1111111111111111111111111111111111111111111111111111111111111111",
	"0b11111111111111111111111111111111111111111111111111111111111111111",
	"-0b11111111111111111111111111111111111111111111111111111111111111111",
};

#define READ(function, format)                                                            \
	do {                                                                              \
		errno = 0;                                                                \
		printf(#function " %s %d: " format, TEXTS[i], base, function(TEXTS[i], &end, base)); \
		printf(" %td %d\n", end - TEXTS[i], errno);                               \
	} while (0)
#define READ_L(function, format)                                                          \
	do {                                                                              \
		errno = 0;                                                                \
		printf(#function " " format, function(TEXTS[i], &end, base, here));       \
		printf(" %td %d\n", end - TEXTS[i], errno);                               \
	} while (0)
#define WIDE(function, format)                                                            \
	do {                                                                              \
		errno = 0;                                                                \
		printf(#function " " format, function(wide, &wide_end, base));            \
		printf(" %td %d\n", wide_end - wide, errno);                              \
	} while (0)
#define WIDE_L(function, format)                                                          \
	do {                                                                              \
		errno = 0;                                                                \
		printf(#function " " format, function(wide, &wide_end, base, here));      \
		printf(" %td %d\n", wide_end - wide, errno);                              \
	} while (0)

static void scans(void)
{
	int a = 0, b = 0, c = 0;
	char word[9] = "";
	wchar_t wide[9] = L"";
	FILE *file = tmpfile();

	printf("%d %d %d %d\n", sscanf("12 0x1f 077", "%d %i %i", &a, &b, &c), a, b, c);
	printf("%d %d %s\n", sscanf("7abc", "%d%8s", &a, word), a, word);
	printf("%d %d %ls\n", swscanf(L"8 xyz", L"%d %8ls", &a, wide), a, wide);
	fputs("5 word", file);
	rewind(file);
	printf("%d %d %s\n", fscanf(file, "%d %8s", &a, word), a, word);
	fclose(file);
}

void calls_numbers(void)
{
	locale_t here = newlocale(LC_ALL_MASK, "C", (locale_t)0);
	static const int bases[] = { 0, 2, 8, 10, 16, 36 };
	unsigned int i, j;

	for (i = 0; i < sizeof(TEXTS) / sizeof(*TEXTS); i++)
		for (j = 0; j < 6; j++) {
			int base = bases[j];
			char *end;
			wchar_t wide[80], *wide_end;

			swprintf(wide, 80, L"%s", TEXTS[i]);
			READ(strtol, "%ld");
			READ(strtoll, "%lld");
			READ(strtoul, "%lu");
			READ(strtoull, "%llu");
			READ(strtoimax, "%jd");
			READ(strtoumax, "%ju");
			READ_L(strtol_l, "%ld");
			READ_L(strtoll_l, "%lld");
			READ_L(strtoul_l, "%lu");
			READ_L(strtoull_l, "%llu");
			WIDE(wcstol, "%ld");
			WIDE(wcstoll, "%lld");
			WIDE(wcstoul, "%lu");
			WIDE(wcstoull, "%llu");
			WIDE(wcstoimax, "%jd");
			WIDE(wcstoumax, "%ju");
			WIDE_L(wcstol_l, "%ld");
			WIDE_L(wcstoll_l, "%lld");
			WIDE_L(wcstoul_l, "%lu");
			WIDE_L(wcstoull_l, "%llu");
		}
	scans();
}
