/* What only the oldest images lack: glibc 2.17 to 2.29. */
#include "polyfill.h"

#include <search.h>
#include <stdbool.h>

OLD(int, pthread_once, pthread_once_t *, void (*)(void));
OLD(int, pthread_key_create, pthread_key_t *, void (*)(void *));
OLD(int, pthread_setspecific, pthread_key_t, const void *);
OLD(void *, pthread_getspecific, pthread_key_t);
OLD(int, pthread_attr_init, pthread_attr_t *);
OLD(int, __cxa_atexit, void (*)(void *), void *, void *);
OLD(int, snprintf, char *, size_t, const char *, ...);

/* __cxa_thread_atexit_impl (2.18): destructors of C++'s thread_local. Each thread has a list, newest first, that a key's
 * destructor runs; a process that ends by exit() runs only the main thread's, as glibc does. A library whose destructors
 * are still to run is not kept from being unloaded; glibc would keep it.
 */
struct destructor {
	struct destructor *next;
	void (*function)(void *);
	void *object;
};

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void run(void *first)
{
	struct destructor *entry = first;

	while (entry) {
		fairlead_old_pthread_setspecific(key, entry->next);
		entry->function(entry->object);
		fairlead_old_free(entry);
		entry = fairlead_old_pthread_getspecific(key); /* one may have registered another */
	}
}

static void run_own(void *unused)
{
	(void)unused;
	run(fairlead_old_pthread_getspecific(key));
}

static void make_key(void)
{
	if (fairlead_old_pthread_key_create(&key, run))
		fairlead_old_abort();
}

NEW(int, __cxa_thread_atexit_impl, void (*function)(void *), void *object, void *library)
{
	struct destructor *entry = fairlead_old_malloc(sizeof(*entry));
	bool initial = kernel(SYS_gettid, 0, 0, 0, 0, 0, 0) == kernel(SYS_getpid, 0, 0, 0, 0, 0, 0);

	fairlead_old_pthread_once(&once, make_key);
	if (!entry)
		fairlead_old_abort();
	*entry = (struct destructor){ fairlead_old_pthread_getspecific(key), function, object };
	if (initial && !entry->next && fairlead_old___cxa_atexit(run_own, NULL, NULL))
		fairlead_old_abort();
	(void)library;
	return fairlead_old_pthread_setspecific(key, entry);
}

/* Nothing else than the built-in attributes can have been set, as there is no function to set them. */
NEW(int, pthread_getattr_default_np, pthread_attr_t *ret_attributes)
{
	return fairlead_old_pthread_attr_init(ret_attributes);
}

/* strfromd and friends (2.25): "%[.precision]X", which snprintf reads as well; a long double wants an L before X. */
#define STRFROM(name, type, wide)                                                           \
	NEW(int, name, char *restrict text, size_t size, const char *restrict format, type value) \
	{                                                                                    \
		char own[32];                                                                 \
		size_t i;                                                                     \
                                                                                             \
		for (i = 0; format[i] && format[i + 1] && i < sizeof(own) - 3; i++)           \
			own[i] = format[i];                                                   \
		if (format[i] && format[i + 1])                                               \
			fairlead_old_abort(); /* no precision has so many digits */           \
		if (wide)                                                                     \
			own[i] = 'L';                                                         \
		own[i + wide] = format[i];                                                    \
		own[i + wide + 1] = 0;                                                        \
		if (wide)                                                                     \
			return fairlead_old_snprintf(text, size, own, value);                  \
		return fairlead_old_snprintf(text, size, own, (double)value);                  \
	}
STRFROM(strfromd, double, 0)
STRFROM(strfromf, float, 0)
STRFROM(strfroml, long double, 1)

/* twalk_r (2.30): twalk with an argument. A node of tsearch's tree, with the colour in the low bit of the left link or
 * behind the links.
 */
struct node {
	const void *value;
	uintptr_t left, right;
};

static const struct node *child(uintptr_t link)
{
	return (const struct node *)(link & ~(uintptr_t)1);
}

static void walk(const struct node *node, void (*action)(const void *, VISIT, void *), void *argument)
{
	const struct node *left = child(node->left), *right = child(node->right);

	if (!left && !right) {
		action(node, leaf, argument);
		return;
	}
	action(node, preorder, argument);
	if (left)
		walk(left, action, argument);
	action(node, postorder, argument);
	if (right)
		walk(right, action, argument);
	action(node, endorder, argument);
}

NEW(void, twalk_r, const void *root, void (*action)(const void *, VISIT, void *), void *argument)
{
	if (root && action)
		walk(root, action, argument);
}

#ifdef __x86_64__
/* The processor's register of rights, two bits for each key. */
NEW(int, pkey_get, int number)
{
	unsigned int rights, high;

	if (number < 0 || number > 15) {
		errno = 22; /* EINVAL */
		return -1;
	}
	__asm__ volatile(".byte 0x0f, 0x01, 0xee" : "=a"(rights), "=d"(high) : "c"(0));
	return (int)(rights >> 2 * number & 3);
}

NEW(int, pkey_set, int number, unsigned int wanted)
{
	unsigned int rights, high;

	if (number < 0 || number > 15 || wanted > 3) {
		errno = 22;
		return -1;
	}
	__asm__ volatile(".byte 0x0f, 0x01, 0xee" : "=a"(rights), "=d"(high) : "c"(0));
	rights = (rights & ~(3U << 2 * number)) | wanted << 2 * number;
	__asm__ volatile(".byte 0x0f, 0x01, 0xef" : : "a"(rights), "c"(0), "d"(0) : "memory");
	return 0;
}
#endif
