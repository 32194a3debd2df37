#include "calls.h"

#include <arpa/inet.h>
#include <malloc.h>
#include <search.h>
#include <signal.h>
#include <stdlib.h>
#include <wchar.h>

/* What fortified programs call. */
extern void __explicit_bzero_chk(void *, size_t, size_t);
#if SINCE(38)
extern size_t __strlcpy_chk(char *, const char *, size_t, size_t), __strlcat_chk(char *, const char *, size_t, size_t);
extern size_t __wcslcpy_chk(wchar_t *, const wchar_t *, size_t, size_t),
	__wcslcat_chk(wchar_t *, const wchar_t *, size_t, size_t);
#endif

static void copies(void)
{
#if SINCE(38)
	char text[8], i;
	wchar_t wide[8];

	for (i = 0; i < 8; i++) {
		memset(text, '#', 8);
		printf("strlcpy %zu %.8s\n", strlcpy(text, "abcdef", (size_t)i), text);
		strcpy(text, "xy");
		printf("strlcat %zu %.8s\n", strlcat(text, "abcdef", (size_t)i), text);
		wcscpy(wide, L"xy");
		printf("wcslcat %zu %.7ls\n", wcslcat(wide, L"abcdef", (size_t)i), wide);
		printf("wcslcpy %zu %.7ls\n", wcslcpy(wide, L"abc", (size_t)i), i ? wide : L"");
	}
	printf("%zu %s\n", __strlcpy_chk(text, "abc", 8, 8), text);
	printf("%zu %s\n", __strlcat_chk(text, "defghi", 8, 8), text);
	printf("%zu %ls\n", __wcslcpy_chk(wide, L"abc", 8, 8), wide);
	printf("%zu %ls\n", __wcslcat_chk(wide, L"defghi", 8, 8), wide);
#endif
}

static void names(void)
{
#if SINCE(32)
	int i;

	for (i = -1; i < 134; i++) {
		const char *name = strerrorname_np(i), *text = strerrordesc_np(i);

		printf("%d %s %s\n", i, name ? name : "-", text ? text : "-");
	}
	for (i = -1; i < 70; i++) {
		const char *name = sigabbrev_np(i), *text = sigdescr_np(i);

		printf("%d %s %s\n", i, name ? name : "-", text ? text : "-");
	}
#endif
}

static void memory(void)
{
	char text[8] = "secret";
	void *block;

	explicit_bzero(text, 3);
	HOLDS(!memcmp(text, "\0\0\0ret\0", 8));
	__explicit_bzero_chk(text, 6, 8);
	HOLDS(!memcmp(text, "\0\0\0\0\0\0\0", 8));
	block = reallocarray(NULL, 10, 10);
	HOLDS(block != NULL);
	free(block);
	errno = 0;
	HOLDS(reallocarray(NULL, (size_t)1 << 40, (size_t)1 << 40) == NULL && errno == ENOMEM);
#if SINCE(33)
	HOLDS(mallinfo2().uordblks > 0);
#endif
#if SINCE(35)
	extern int __memcmpeq(const void *, const void *, size_t);
	HOLDS(__memcmpeq("abc", "abc", 3) == 0 && __memcmpeq("abc", "abd", 3) != 0);
#endif
#if SINCE(42)
	extern const char *__inet_ntop_chk(int, const void *, char *, socklen_t, size_t);
	extern int __inet_pton_chk(int, const char *, void *, size_t);
	char address[16], shown[64];

	TOLD(__inet_pton_chk(AF_INET, "10.1.2.3", address, 4));
	printf("%s\n", __inet_ntop_chk(AF_INET, address, shown, sizeof(shown), sizeof(shown)));
	TOLD(__inet_pton_chk(AF_INET6, "fe80::1", address, 16));
	printf("%s\n", __inet_ntop_chk(AF_INET6, address, shown, sizeof(shown), sizeof(shown)));
#endif
#if SINCE(43)
	extern void *__memset_explicit_chk(void *, int, size_t, size_t);

	HOLDS(memset_explicit(text, 'x', 3) == text && text[2] == 'x' && !text[3]);
	HOLDS(__memset_explicit_chk(text, 'y', 3, 8) == text && text[2] == 'y');
	HOLDS(memalignment(NULL) == 0 && memalignment((void *)48) == 16);
	free_sized(malloc(10), 10);
	free_aligned_sized(aligned_alloc(64, 64), 64, 64);
#endif
}

static int compare(const void *one, const void *other)
{
	return strcmp(one, other);
}

static void visit(const void *node, VISIT order, void *text)
{
	sprintf((char *)text + strlen(text), "%s%d ", *(const char *const *)node, order);
}

static void trees(void)
{
	char text[500] = "";
	const char *words[] = { "d", "b", "f", "a", "c", "e", "g", "h" };
	void *root = NULL;
	int i;

	twalk_r(root, visit, text);
	for (i = 0; i < 8; i++)
		tsearch(words[i], &root, compare);
	twalk_r(root, visit, text);
	printf("%s\n", text);
}

static void floats(void)
{
	static const char *const formats[] = { "%g", "%.3f", "%e", "%a", "%.0G", "%.20f", "%A" };
	char text[80];
	int i;

	for (i = 0; i < 7; i++) {
		printf("%d ", strfromd(text, 80, formats[i], 1234.5678));
		printf("%s %d ", text, strfromf(text, 80, formats[i], -0.1f));
		printf("%s %d ", text, strfroml(text, 4, formats[i], 1e30L));
		printf("%s\n", text);
	}
}

void calls_strings(void)
{
	trees();
	floats();
	copies();
	names();
	memory();
}
