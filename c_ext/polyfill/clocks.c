/* Waits that name their clock (2.30), over waits that have one: CLOCK_REALTIME, or the condition's own.
 *
 * A deadline of another clock is carried over by what is left of it, at most SLICE at a time, so that a change of the
 * wall clock delays nobody for longer. When a slice ends before the deadline, locks and semaphores wait again. A
 * condition returns as if woken without cause, which every caller must expect: to wait again here could miss a wake-up
 * sent in between.
 */
#include "polyfill.h"

#include <stdbool.h>
#include <semaphore.h>

enum { EINVAL_ = 22, ETIMEDOUT_ = 110, SECOND = 1000000000, SLICE_S = 1 };

OLD(int, pthread_cond_timedwait, pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
OLD(int, pthread_mutex_timedlock, pthread_mutex_t *, const struct timespec *);
OLD(int, pthread_rwlock_timedrdlock, pthread_rwlock_t *, const struct timespec *);
OLD(int, pthread_rwlock_timedwrlock, pthread_rwlock_t *, const struct timespec *);
OLD(int, pthread_timedjoin_np, pthread_t, void **, const struct timespec *);
OLD(int, pthread_join, pthread_t, void **);
OLD(int, sem_timedwait, sem_t *, const struct timespec *);
OLD(const char *, gnu_get_libc_version, void);

static bool valid(clockid_t clock, const struct timespec *deadline)
{
	return (clock == CLOCK_REALTIME || clock == CLOCK_MONOTONIC) && deadline->tv_nsec >= 0 &&
	       deadline->tv_nsec < SECOND;
}

static struct timespec now(clockid_t clock)
{
	struct timespec ret = { 0, 0 };

	kernel(SYS_clock_gettime, clock, ARG(&ret), 0, 0, 0, 0);
	return ret;
}

static bool passed(clockid_t clock, const struct timespec *deadline)
{
	struct timespec time = now(clock);

	return time.tv_sec > deadline->tv_sec ||
	       (time.tv_sec == deadline->tv_sec && time.tv_nsec >= deadline->tv_nsec);
}

/* The deadline, or the end of a slice before it, on another clock. */
static struct timespec carried(clockid_t from, const struct timespec *deadline, clockid_t to)
{
	struct timespec old, ret;

	if (from == to)
		return *deadline;
	old = now(from);
	ret = now(to);
	if (deadline->tv_sec < old.tv_sec)
		return ret;
	if (deadline->tv_sec - old.tv_sec > SLICE_S) {
		ret.tv_sec += SLICE_S;
		return ret;
	}
	ret.tv_sec += deadline->tv_sec - old.tv_sec;
	ret.tv_nsec += deadline->tv_nsec - old.tv_nsec;
	if (ret.tv_nsec < 0) {
		ret.tv_nsec += SECOND;
		ret.tv_sec--;
	} else if (ret.tv_nsec >= SECOND) {
		ret.tv_nsec -= SECOND;
		ret.tv_sec++;
	}
	return ret;
}

/* Which clock a condition was made for: no function tells. Since 2.25 bit 1 of the word at 36, before bit 0 of 40. */
static clockid_t own_clock(const pthread_cond_t *condition)
{
	const unsigned int *words = (const unsigned int *)(const void *)condition;
	const char *release = fairlead_old_gnu_get_libc_version(); /* "2.31" */
	bool old = release[2] < '2' || (release[2] == '2' && release[3] < '5');
	unsigned int word = __atomic_load_n(&words[old ? 10 : 9], __ATOMIC_RELAXED);

	return word & (old ? 1 : 2) ? CLOCK_MONOTONIC : CLOCK_REALTIME;
}

NEW(int, pthread_cond_clockwait, pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock,
    const struct timespec *deadline)
{
	struct timespec until;
	int ret;

	if (!valid(clock, deadline))
		return EINVAL_;
	until = carried(clock, deadline, own_clock(condition));
	ret = fairlead_old_pthread_cond_timedwait(condition, mutex, &until);
	return ret == ETIMEDOUT_ && !passed(clock, deadline) ? 0 : ret;
}

#define LOCK(name, type, old)                                                               \
	NEW(int, name, type *lock, clockid_t clock, const struct timespec *deadline)          \
	{                                                                                    \
		struct timespec until;                                                        \
		int ret;                                                                      \
                                                                                             \
		if (!valid(clock, deadline))                                                  \
			return EINVAL_;                                                       \
		do {                                                                          \
			until = carried(clock, deadline, CLOCK_REALTIME);                     \
			ret = fairlead_old_##old(lock, &until);                               \
		} while (ret == ETIMEDOUT_ && !passed(clock, deadline));                      \
		return ret;                                                                   \
	}
LOCK(pthread_mutex_clocklock, pthread_mutex_t, pthread_mutex_timedlock)
LOCK(pthread_rwlock_clockrdlock, pthread_rwlock_t, pthread_rwlock_timedrdlock)
LOCK(pthread_rwlock_clockwrlock, pthread_rwlock_t, pthread_rwlock_timedwrlock)

NEW(int, sem_clockwait, sem_t *semaphore, clockid_t clock, const struct timespec *deadline)
{
	struct timespec until;
	int ret;

	if (!valid(clock, deadline)) {
		errno = EINVAL_;
		return -1;
	}
	do {
		until = carried(clock, deadline, CLOCK_REALTIME);
		ret = fairlead_old_sem_timedwait(semaphore, &until);
	} while (ret < 0 && errno == ETIMEDOUT_ && !passed(clock, deadline));
	return ret;
}

NEW(int, pthread_clockjoin_np, pthread_t thread, void **ret_value, clockid_t clock, const struct timespec *deadline)
{
	struct timespec until;
	int ret;

	if (!deadline)
		return fairlead_old_pthread_join(thread, ret_value);
	if (!valid(clock, deadline))
		return EINVAL_;
	do {
		until = carried(clock, deadline, CLOCK_REALTIME);
		ret = fairlead_old_pthread_timedjoin_np(thread, ret_value, &until);
	} while (ret == ETIMEDOUT_ && !passed(clock, deadline));
	return ret;
}

/* Only TIME_UTC (1): the others came later, and a caller is told so by 0. */
NEW(int, timespec_getres, struct timespec *ret_resolution, int base)
{
	if (base != 1)
		return 0;
	if (ret_resolution)
		kernel(SYS_clock_getres, CLOCK_REALTIME, ARG(ret_resolution), 0, 0, 0, 0);
	return base;
}
