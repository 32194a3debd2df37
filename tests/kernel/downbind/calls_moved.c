/* Functions that only moved or got a new label, some of each library: they must arrive where they always did. */
#include "calls.h"

#include <aio.h>
#include <arpa/nameser.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <math.h>
#include <pthread.h>
#include <pty.h>
#include <resolv.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>

static volatile int fired;

static void fire(union sigval value)
{
	fired = value.sival_int;
}

static void realtime(void)
{
	char text[8] = "";
	struct sigevent event = { .sigev_notify = SIGEV_THREAD, .sigev_value.sival_int = 5,
				  .sigev_notify_function = fire };
	struct itimerspec time = { .it_value = { 0, 1000000 } };
	struct aiocb request = { .aio_buf = text, .aio_nbytes = 5 };
	const struct aiocb *list[] = { &request };
	timer_t timer;
	int i, fd;

	TOLD(timer_create(CLOCK_MONOTONIC, &event, &timer));
	TOLD(timer_settime(timer, 0, &time, NULL));
	for (i = 0; i < 2000 && !fired; i++)
		usleep(1000);
	HOLDS(fired == 5);
	TOLD(timer_getoverrun(timer));
	TOLD(timer_delete(timer));
	fd = open("aio", O_RDWR | O_CREAT | O_TRUNC, 0600);
	HOLDS(write(fd, "hello", 5) == 5);
	request.aio_fildes = fd;
	TOLD(aio_read(&request));
	TOLD(aio_suspend(list, 1, NULL));
	TOLD(aio_return(&request));
	printf("%s\n", text);
	close(fd);
	unlink("aio");
	TOLD(shm_unlink("/fairlead-no-such-thing"));
	TOLD(sem_unlink("/fairlead-no-such-thing"));
}

static void loader(void)
{
	Dl_info info;
	struct link_map *map;

	HOLDS(dladdr((void *)calls_moved, &info) && strstr(info.dli_fname, "calls"));
	HOLDS(dlinfo(dlopen(NULL, RTLD_NOW), RTLD_DI_LINKMAP, &map) == 0 && map->l_ld);
	HOLDS(dlvsym(RTLD_DEFAULT, "malloc", "GLIBC_2.2.5") || dlvsym(RTLD_DEFAULT, "malloc", "GLIBC_2.17"));
}

static void names(void)
{
	unsigned char packed[256];
	char text[256];

	TOLD(dn_comp("www.example.org", packed, sizeof(packed), NULL, NULL));
	TOLD(dn_skipname(packed, packed + sizeof(packed)));
	TOLD(dn_expand(packed, packed + sizeof(packed), packed, text, sizeof(text)));
	printf("%s\n", text);
	TOLD(ns_name_pton("a.b", packed, sizeof(packed)));
	TOLD(ns_name_ntop(packed, text, sizeof(text)));
	printf("%s\n", text);
	TOLD(res_hnok("good.name"));
	TOLD(res_hnok("bad name"));
}

static void *waits(void *barrier)
{
	pthread_barrier_wait(barrier);
	return NULL;
}

static void threads(void)
{
	pthread_barrier_t barrier;
	pthread_spinlock_t spin;
	pthread_attr_t attributes;
	pthread_rwlock_t lock;
	pthread_t thread;
	pthread_mutex_t mutex;
	pthread_mutexattr_t kind;
	cpu_set_t set;
	char name[16] = "";
	size_t size;
	void *start;

	TOLD(pthread_barrier_init(&barrier, NULL, 2));
	TOLD(pthread_attr_init(&attributes));
	CPU_ZERO(&set);
	TOLD(pthread_getaffinity_np(pthread_self(), sizeof(set), &set));
	HOLDS(CPU_COUNT(&set) > 0);
	TOLD(pthread_attr_setaffinity_np(&attributes, sizeof(set), &set));
	TOLD(pthread_attr_setstacksize(&attributes, 1 << 20));
	TOLD(pthread_attr_setguardsize(&attributes, 4096));
	TOLD(pthread_create(&thread, &attributes, waits, &barrier));
	TOLD(pthread_setname_np(thread, "moved"));
	TOLD(pthread_getname_np(thread, name, sizeof(name)));
	printf("%s %d\n", name, pthread_tryjoin_np(thread, NULL));
	pthread_barrier_wait(&barrier);
	TOLD(pthread_join(thread, NULL));
	TOLD(pthread_barrier_destroy(&barrier));
	TOLD(pthread_getattr_np(pthread_self(), &attributes));
	TOLD(pthread_attr_getstack(&attributes, &start, &size));
	HOLDS((char *)&size > (char *)start && (char *)&size < (char *)start + size);
	TOLD(pthread_spin_init(&spin, 0));
	TOLD(pthread_spin_trylock(&spin));
	TOLD(pthread_spin_trylock(&spin));
	TOLD(pthread_spin_unlock(&spin));
	TOLD(pthread_rwlock_init(&lock, NULL));
	TOLD(pthread_rwlock_tryrdlock(&lock));
	TOLD(pthread_rwlock_trywrlock(&lock));
	TOLD(pthread_rwlock_unlock(&lock));
	TOLD(pthread_mutexattr_init(&kind));
	TOLD(pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST));
	TOLD(pthread_mutexattr_setprotocol(&kind, PTHREAD_PRIO_INHERIT));
	TOLD(pthread_mutex_init(&mutex, &kind));
	TOLD(pthread_mutex_trylock(&mutex));
	TOLD(pthread_mutex_consistent(&mutex));
	TOLD(pthread_mutex_unlock(&mutex));
}

static void arithmetic(void)
{
	volatile double x = 3, y = 4, z = 7.5;
	volatile float f = 2;

	printf("%.14g %.14g %.14g %.6g %.14g %.14g %.6g %.6g %.6g\n", hypot(x, y), fmod(z, 2), exp10(x), (double)exp10f(f),
	       pow(x, y), log2(z), (double)expf(f), (double)sinhf(f), (double)log10f(f));
}

void calls_moved(void)
{
	int one, other;

	realtime();
	loader();
	names();
	threads();
	arithmetic();
	TOLD(openpty(&one, &other, NULL, NULL, NULL) < -1);
}
