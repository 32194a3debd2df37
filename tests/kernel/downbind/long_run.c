/* Many threads for SECONDS: locks, conditions with a deadline, barriers, memory, files, short-lived threads. */
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 8, ROUNDS = 400 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_changed = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static sem_t slots;
static int turn;
static long total;
static time_t end;

static void *brief(void *number)
{
	return (void *)((long)number + 1);
}

static void *works(void *data)
{
	int me = (int)(long)data, round;
	struct timespec until;
	struct stat status;
	pthread_t thread;
	void *value;

	do {
		for (round = 0; round < ROUNDS; round++) {
			char *block = malloc((size_t)(100 + round));

			memset(block, me, (size_t)(100 + round));
			pthread_mutex_lock(&lock);
			while (turn != me) {
				clock_gettime(CLOCK_MONOTONIC, &until);
				until.tv_sec += 30;
				if (pthread_cond_clockwait(&turn_changed, &lock, CLOCK_MONOTONIC, &until) == 110)
					abort();
			}
			turn = (turn + 1) % THREADS;
			total++;
			pthread_cond_broadcast(&turn_changed);
			pthread_mutex_unlock(&lock);
			sem_wait(&slots);
			if (stat("/", &status) < 0)
				abort();
			sem_post(&slots);
			free(block);
		}
		pthread_create(&thread, NULL, brief, data);
		pthread_join(thread, &value);
		if ((long)value != me + 1)
			abort();
		/* all see the same time, so all leave together */
		if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
			__atomic_store_n(&turn, time(NULL) >= end ? -1 : 0, __ATOMIC_SEQ_CST);
		pthread_barrier_wait(&barrier);
	} while (__atomic_load_n(&turn, __ATOMIC_SEQ_CST) >= 0);
	return NULL;
}

int main(int count, char **words)
{
	pthread_t threads[THREADS];
	long i;

	end = time(NULL) + (count > 1 ? atoi(words[1]) : 1);
	pthread_barrier_init(&barrier, NULL, THREADS);
	sem_init(&slots, 0, 3);
	for (i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, works, (void *)i))
			return 1;
	for (i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	printf("long run %d\n", total > 0 && total % (THREADS * ROUNDS) == 0);
	return 0;
}
