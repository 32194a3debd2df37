#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make(void)
{
	pthread_key_create(&key, 0);
}

void through_library(void (*call)(int), int value)
{
	pthread_once(&once, make);
	pthread_setspecific(key, &lock);
	pthread_mutex_trylock(&lock);
	pthread_mutex_unlock(&lock);
	call(value);
}
