/* C11's threads (2.28), each a POSIX call with other words for its outcome; _Fork (2.34). */
#include "polyfill.h"

#include <sys/types.h>

enum { SUCCESS, BUSY, ERROR, NOMEM, TIMEDOUT }; /* thrd_success … */
enum { ENOMEM_ = 12, EBUSY_ = 16, EINTR_ = 4, ETIMEDOUT_ = 110, RECURSIVE = 1 /* mtx_recursive */ };

OLD(int, pthread_create, pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
OLD(int, pthread_detach, pthread_t);
OLD(int, pthread_join, pthread_t, void **);
OLD(void, pthread_exit, void *);
OLD(pthread_t, pthread_self, void);
OLD(int, pthread_once, pthread_once_t *, void (*)(void));
OLD(int, pthread_mutexattr_init, pthread_mutexattr_t *);
OLD(int, pthread_mutexattr_settype, pthread_mutexattr_t *, int);
OLD(int, pthread_mutex_init, pthread_mutex_t *, const pthread_mutexattr_t *);
OLD(int, pthread_mutex_destroy, pthread_mutex_t *);
OLD(int, pthread_mutex_lock, pthread_mutex_t *);
OLD(int, pthread_mutex_trylock, pthread_mutex_t *);
OLD(int, pthread_mutex_timedlock, pthread_mutex_t *, const struct timespec *);
OLD(int, pthread_mutex_unlock, pthread_mutex_t *);
OLD(int, pthread_cond_init, pthread_cond_t *, const pthread_condattr_t *);
OLD(int, pthread_cond_destroy, pthread_cond_t *);
OLD(int, pthread_cond_signal, pthread_cond_t *);
OLD(int, pthread_cond_broadcast, pthread_cond_t *);
OLD(int, pthread_cond_wait, pthread_cond_t *, pthread_mutex_t *);
OLD(int, pthread_cond_timedwait, pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
OLD(int, pthread_key_create, pthread_key_t *, void (*)(void *));
OLD(int, pthread_key_delete, pthread_key_t);
OLD(int, pthread_setspecific, pthread_key_t, const void *);
OLD(void *, pthread_getspecific, pthread_key_t);
OLD(pid_t, fork, void);

static int outcome(int error)
{
	switch (error) {
	case 0:
		return SUCCESS;
	case EBUSY_:
		return BUSY;
	case ENOMEM_:
		return NOMEM;
	case ETIMEDOUT_:
		return TIMEDOUT;
	default:
		return ERROR;
	}
}

typedef int start_t(void *);
typedef union {
	start_t *given;
	void *(*wanted)(void *);
} entry_t;

/* The int that the function returns is the low half of the pointer that POSIX expects. */
NEW(int, thrd_create, pthread_t *ret_thread, start_t *start, void *argument)
{
	entry_t entry = { .given = start };

	return outcome(fairlead_old_pthread_create(ret_thread, NULL, entry.wanted, argument));
}

NEW(int, thrd_join, pthread_t thread, int *ret_value)
{
	void *value;
	int error = fairlead_old_pthread_join(thread, &value);

	if (ret_value)
		*ret_value = (int)(intptr_t)value;
	return outcome(error);
}

NEW(int, thrd_detach, pthread_t thread)
{
	return outcome(fairlead_old_pthread_detach(thread));
}

NEW(void, thrd_exit, int value)
{
	fairlead_old_pthread_exit((void *)(intptr_t)value);
}

NEW(pthread_t, thrd_current, void)
{
	return fairlead_old_pthread_self();
}

NEW(int, thrd_equal, pthread_t one, pthread_t other)
{
	return one == other;
}

NEW(void, thrd_yield, void)
{
	kernel(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
}

NEW(int, thrd_sleep, const struct timespec *time, struct timespec *ret_left)
{
	int before = errno, error;

	if (cancellable(SYS_clock_nanosleep, CLOCK_REALTIME, 0, ARG(time), ARG(ret_left), 0, 0) == 0)
		return 0;
	error = errno;
	errno = before;
	return error == EINTR_ ? -1 : -2;
}

NEW(void, call_once, pthread_once_t *once, void (*function)(void))
{
	fairlead_old_pthread_once(once, function);
}

NEW(int, mtx_init, pthread_mutex_t *mutex, int type)
{
	pthread_mutexattr_t attributes;

	fairlead_old_pthread_mutexattr_init(&attributes);
	fairlead_old_pthread_mutexattr_settype(&attributes, type & RECURSIVE ? PTHREAD_MUTEX_RECURSIVE : 0);
	return outcome(fairlead_old_pthread_mutex_init(mutex, &attributes));
}

NEW(void, mtx_destroy, pthread_mutex_t *mutex)
{
	fairlead_old_pthread_mutex_destroy(mutex);
}

NEW(int, mtx_lock, pthread_mutex_t *mutex)
{
	return outcome(fairlead_old_pthread_mutex_lock(mutex));
}

NEW(int, mtx_trylock, pthread_mutex_t *mutex)
{
	return outcome(fairlead_old_pthread_mutex_trylock(mutex));
}

NEW(int, mtx_timedlock, pthread_mutex_t *mutex, const struct timespec *deadline)
{
	return outcome(fairlead_old_pthread_mutex_timedlock(mutex, deadline));
}

NEW(int, mtx_unlock, pthread_mutex_t *mutex)
{
	return outcome(fairlead_old_pthread_mutex_unlock(mutex));
}

NEW(int, cnd_init, pthread_cond_t *condition)
{
	return outcome(fairlead_old_pthread_cond_init(condition, NULL));
}

NEW(void, cnd_destroy, pthread_cond_t *condition)
{
	fairlead_old_pthread_cond_destroy(condition);
}

NEW(int, cnd_signal, pthread_cond_t *condition)
{
	return outcome(fairlead_old_pthread_cond_signal(condition));
}

NEW(int, cnd_broadcast, pthread_cond_t *condition)
{
	return outcome(fairlead_old_pthread_cond_broadcast(condition));
}

NEW(int, cnd_wait, pthread_cond_t *condition, pthread_mutex_t *mutex)
{
	return outcome(fairlead_old_pthread_cond_wait(condition, mutex));
}

NEW(int, cnd_timedwait, pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *deadline)
{
	return outcome(fairlead_old_pthread_cond_timedwait(condition, mutex, deadline));
}

NEW(int, tss_create, pthread_key_t *ret_key, void (*destroy)(void *))
{
	return outcome(fairlead_old_pthread_key_create(ret_key, destroy));
}

NEW(void, tss_delete, pthread_key_t key)
{
	fairlead_old_pthread_key_delete(key);
}

NEW(int, tss_set, pthread_key_t key, void *value)
{
	return outcome(fairlead_old_pthread_setspecific(key, value));
}

NEW(void *, tss_get, pthread_key_t key)
{
	return fairlead_old_pthread_getspecific(key);
}

/* Unlike glibc's, it runs the handlers of pthread_atfork: only they know the child's thread and locks here. */
NEW(pid_t, _Fork, void)
{
	return fairlead_old_fork();
}
