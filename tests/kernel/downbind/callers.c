/* Who a call comes from must survive the stub: dlsym(RTLD_NEXT), dlopen by the caller's own search path, constructors,
 * thread-local variables, fork, signals, cancellation. Prints the same on every glibc.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern int library_next(void), library_opens(const char *), library_constructed;
extern __thread int library_counter;
extern int library_count(void);

static int constructed, cleaned, forked;

__attribute__((constructor)) static void construct(int count, char **words, char **environment)
{
	constructed = count == 2 && !strcmp(words[1], "word") && environment && environment[0];
}

__attribute__((destructor)) static void destruct(void)
{
	printf("destructor of the program\n");
}

static void leave(void)
{
	printf("atexit\n");
}

static void *counts(void *number)
{
	int i;

	for (i = 0; i < 1000; i++)
		library_count();
	return (void *)(long)(library_counter + (int)(long)number);
}

static void clean(void *unused)
{
	(void)unused;
	cleaned++;
}

static void *blocks(void *unused)
{
	pthread_cleanup_push(clean, NULL);
	for (;;)
		pause();
	pthread_cleanup_pop(0);
	return unused;
}

static void in_child(void)
{
	forked = 1;
}

static volatile sig_atomic_t signalled;
static pthread_t signal_thread;

static void handle(int number)
{
	signalled = number == SIGUSR2 && pthread_equal(pthread_self(), signal_thread);
}

static void *catches(void *unused)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	while (!signalled)
		usleep(1000);
	return unused;
}

int main(int count, char **words)
{
	pthread_t threads[8];
	void *value;
	int i, status;
	sigset_t set;

	atexit(leave);
	printf("constructed %d, library %d\n", constructed, library_constructed);
	printf("RTLD_NEXT from the library: %d\n", library_next());
	printf("the program's search path: %d\n", dlopen("libinner.so", RTLD_NOW) != NULL);
	printf("library's own search path: %d\n", library_opens("libinner.so"));
	printf("%d\n", dlopen("libabsent.so", RTLD_NOW) == NULL && strstr(dlerror(), "libabsent.so") != NULL);
	for (i = 0; i < 8; i++)
		pthread_create(&threads[i], NULL, counts, (void *)(long)i);
	for (i = 0; i < 8; i++) {
		pthread_join(threads[i], &value);
		printf("%ld ", (long)value);
	}
	printf("main has %d\n", library_counter);
	pthread_create(&threads[0], NULL, blocks, NULL);
	usleep(10000);
	pthread_cancel(threads[0]);
	pthread_join(threads[0], &value);
	printf("cancelled %d, cleaned %d\n", value == PTHREAD_CANCELED, cleaned);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGUSR2, handle);
	pthread_create(&signal_thread, NULL, catches, NULL);
	pthread_kill(signal_thread, SIGUSR2);
	pthread_join(signal_thread, NULL);
	printf("signalled %d\n", signalled);
	pthread_atfork(NULL, NULL, in_child);
	fflush(stdout);
	if (!fork())
		_exit(forked ? 9 : 1);
	wait(&status);
	printf("child %d\n", WEXITSTATUS(status));
	(void)count;
	(void)words;
	return 0;
}
