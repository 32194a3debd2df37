#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>

int library_constructed;
__thread int library_counter;

__attribute__((constructor)) static void construct(void)
{
	library_constructed = 1;
}

/* In front of libc's: only a caller that the loader takes for this library gets the next one. */
pid_t getppid(void)
{
	pid_t (*next)(void) = (pid_t(*)(void))dlsym(RTLD_NEXT, "getppid");

	return next && next != getppid ? -next() : 0;
}

int library_next(void)
{
	return getppid() < 0;
}

int library_opens(const char *name)
{
	return dlopen(name, RTLD_NOW) != 0;
}

int library_count(void)
{
	return ++library_counter;
}
