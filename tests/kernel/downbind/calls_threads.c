#include "calls.h"

#include <pthread.h>
#include <semaphore.h>
#include <threads.h>
#include <time.h>

static struct timespec soon(clockid_t which, long ms)
{
	struct timespec time;

	clock_gettime(which, &time);
	time.tv_nsec += ms * 1000000;
	time.tv_sec += time.tv_nsec / 1000000000;
	time.tv_nsec %= 1000000000;
	return time;
}

#define CLOCKS(text) printf("%s %s\n", used_clock == CLOCK_REALTIME ? "realtime" : "monotonic", text)

static pthread_mutex_t taken = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t read_lock = PTHREAD_RWLOCK_INITIALIZER, write_lock = PTHREAD_RWLOCK_INITIALIZER;
static sem_t semaphore;
static clockid_t used_clock;

/* In another thread, since the locks are this process's own; each must time out, not before its time. */
static void *waits(void *unused)
{
	struct timespec until = soon(used_clock, 30);

	TOLD(pthread_mutex_clocklock(&taken, used_clock, &until));
	HOLDS(soon(used_clock, 0).tv_sec > until.tv_sec || soon(used_clock, 0).tv_nsec >= until.tv_nsec ||
	      soon(used_clock, 0).tv_sec == until.tv_sec + 1);
	until = soon(used_clock, 10);
	TOLD(pthread_rwlock_clockrdlock(&write_lock, used_clock, &until));
	until = soon(used_clock, 10);
	TOLD(pthread_rwlock_clockwrlock(&read_lock, used_clock, &until));
	until = soon(used_clock, 10);
	TOLD(sem_clockwait(&semaphore, used_clock, &until));
	until.tv_nsec = -1;
	TOLD(pthread_mutex_clocklock(&taken, used_clock, &until));
	TOLD(sem_clockwait(&semaphore, used_clock, &until));
	TOLD(pthread_mutex_clocklock(&taken, CLOCK_PROCESS_CPUTIME_ID, &until));
	sem_post(&semaphore);
	until = soon(used_clock, 1000);
	TOLD(sem_clockwait(&semaphore, used_clock, &until));
	return unused;
}

static void *sleeps(void *unused)
{
	usleep(60000);
	return unused;
}

static void conditions(int attribute)
{
	pthread_condattr_t attributes;
	pthread_cond_t condition;
	pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	struct timespec until;
	int ret;

	pthread_condattr_init(&attributes);
	if (attribute)
		pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&condition, &attributes);
	pthread_mutex_lock(&mutex);
	until = soon(used_clock, 40);
	do
		ret = pthread_cond_clockwait(&condition, &mutex, used_clock, &until);
	while (!ret);
	printf("clockwait %d\n", ret);
	HOLDS(soon(used_clock, 0).tv_sec > until.tv_sec ||
	      (soon(used_clock, 0).tv_sec == until.tv_sec && soon(used_clock, 0).tv_nsec >= until.tv_nsec));
	until.tv_nsec = 1000000000;
	TOLD(pthread_cond_clockwait(&condition, &mutex, used_clock, &until));
	TOLD(pthread_cond_clockwait(&condition, &mutex, CLOCK_THREAD_CPUTIME_ID, &until));
	pthread_mutex_unlock(&mutex);
	pthread_cond_destroy(&condition);
}

static int starts(void *argument)
{
	return (int)(long)argument + 1;
}

static tss_t key;
static int destroyed;

static void destroy(void *value)
{
	destroyed += value != NULL;
}

static int uses_key(void *argument)
{
	tss_set(key, argument);
	thrd_exit(tss_get(key) == argument ? -7 : 0);
}

static once_flag once = ONCE_FLAG_INIT;
static int counted;

static void count(void)
{
	counted++;
}

static void c11(void)
{
	thrd_t thread;
	mtx_t mutex;
	cnd_t condition;
	int value = 0;
	struct timespec until = { 0, 1000000 };

	TOLD(thrd_create(&thread, starts, (void *)41));
	TOLD(thrd_join(thread, &value));
	HOLDS(value == 42);
	TOLD(tss_create(&key, destroy));
	TOLD(thrd_create(&thread, uses_key, &value));
	TOLD(thrd_join(thread, &value));
	HOLDS(value == -7 && destroyed == 1);
	tss_delete(key);
	TOLD(thrd_create(&thread, starts, NULL));
	TOLD(thrd_detach(thread));
	int (*volatile equal)(thrd_t, thrd_t) = thrd_equal; /* not the header's inline one */

	HOLDS(equal(thrd_current(), thrd_current()));
	thrd_yield();
	TOLD(thrd_sleep(&until, NULL));
	until.tv_nsec = -1;
	TOLD(thrd_sleep(&until, NULL));
	call_once(&once, count);
	call_once(&once, count);
	HOLDS(counted == 1);
	TOLD(mtx_init(&mutex, mtx_timed | mtx_recursive));
	TOLD(mtx_lock(&mutex));
	TOLD(mtx_trylock(&mutex));
	TOLD(mtx_unlock(&mutex));
	TOLD(mtx_unlock(&mutex));
	mtx_destroy(&mutex);
	TOLD(mtx_init(&mutex, 99));
	TOLD(mtx_init(&mutex, mtx_timed));
	TOLD(mtx_lock(&mutex));
	TOLD(mtx_trylock(&mutex));
	until = soon(CLOCK_REALTIME, 5);
	TOLD(mtx_timedlock(&mutex, &until));
	TOLD(cnd_init(&condition));
	TOLD(cnd_timedwait(&condition, &mutex, &until));
	TOLD(cnd_signal(&condition));
	TOLD(cnd_broadcast(&condition));
	cnd_destroy(&condition);
	mtx_unlock(&mutex);
}

static cnd_t woken;
static mtx_t woken_lock;
static int ready;

static int wakes(void *unused)
{
	(void)unused;
	mtx_lock(&woken_lock);
	ready = 1;
	cnd_broadcast(&woken);
	return mtx_unlock(&woken_lock);
}

extern int __cxa_thread_atexit_impl(void (*)(void *), void *, void *);
extern void *__dso_handle;

static void told(void *name)
{
	printf("destructor %s\n", (const char *)name);
	if (*(const char *)name == 'b')
		__cxa_thread_atexit_impl(told, "of a destructor", &__dso_handle);
}

static void *registers(void *unused)
{
	__cxa_thread_atexit_impl(told, "a", &__dso_handle);
	__cxa_thread_atexit_impl(told, "b", &__dso_handle);
	__cxa_thread_atexit_impl(told, "c", &__dso_handle);
	return unused;
}

static void destructors(void)
{
	pthread_t thread;

	pthread_create(&thread, NULL, registers, NULL);
	pthread_join(thread, NULL);
	__cxa_thread_atexit_impl(told, "main's first", &__dso_handle);
	__cxa_thread_atexit_impl(told, "main's second", &__dso_handle);
}

void calls_threads(void)
{
	pthread_t thread;
	void *value;
	struct timespec until;
	thrd_t other;

	sem_init(&semaphore, 0, 0);
	pthread_mutex_lock(&taken);
	pthread_rwlock_rdlock(&read_lock);
	pthread_rwlock_wrlock(&write_lock);
	for (used_clock = CLOCK_REALTIME; used_clock <= CLOCK_MONOTONIC; used_clock++) {
		CLOCKS("begins");
		pthread_create(&thread, NULL, waits, &thread);
		pthread_join(thread, &value);
		HOLDS(value == &thread);
		conditions(0);
		conditions(1);
#if SINCE(31)
		pthread_create(&thread, NULL, sleeps, &thread);
		until = soon(used_clock, 5);
		TOLD(pthread_clockjoin_np(thread, &value, used_clock, &until));
		until = soon(used_clock, 5000);
		TOLD(pthread_clockjoin_np(thread, &value, used_clock, &until));
		pthread_create(&thread, NULL, sleeps, &thread);
		TOLD(pthread_clockjoin_np(thread, &value, used_clock, NULL));
#endif
	}
	c11();
	{
		pthread_attr_t attributes;
		int detached = -1;

		TOLD(pthread_getattr_default_np(&attributes));
		TOLD(pthread_attr_getdetachstate(&attributes, &detached));
		HOLDS(detached == PTHREAD_CREATE_JOINABLE);
		destructors();
	}
	cnd_init(&woken);
	mtx_init(&woken_lock, mtx_plain);
	mtx_lock(&woken_lock);
	thrd_create(&other, wakes, NULL);
	while (!ready)
		cnd_wait(&woken, &woken_lock);
	mtx_unlock(&woken_lock);
	TOLD(thrd_join(other, NULL));
	(void)until;
}
