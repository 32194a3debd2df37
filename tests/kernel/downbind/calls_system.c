#include "calls.h"

#include <dlfcn.h>
#include <stddef.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#if SINCE(32)
#include <sys/single_threaded.h>
#endif
#if SINCE(35)
#include <sys/rseq.h>
#endif
#if SINCE(36)
#include <sys/pidfd.h>
#endif
#include <termios.h>
#include <time.h>

extern char **environ;

static void random_numbers(void)
{
	unsigned char text[600] = { 0 };
	unsigned long sum = 0;
	int i;

	TOLD(getrandom(text, 16, 0));
	TOLD(getrandom(text, 16, 0x100));
	TOLD(getentropy(text, 256));
	TOLD(getentropy(text, 257));
#if SINCE(36)
	int seen = 0;

	arc4random_buf(text, sizeof(text));
	for (i = 0; i < 600; i++)
		sum += text[i];
	HOLDS(sum > 40000 && sum < 110000);
	HOLDS(arc4random() != arc4random() || arc4random() != arc4random());
	HOLDS(arc4random_uniform(0) == 0 && arc4random_uniform(1) == 0);
	for (i = 0; i < 2000; i++) {
		unsigned int value = arc4random_uniform(10);

		failures += value >= 10;
		seen |= 1 << value;
	}
	HOLDS(seen == 1023);
#endif
	(void)sum;
	(void)i;
}

static volatile sig_atomic_t got;

static void handler(int number)
{
	got = number;
}

static void processes(void)
{
	unsigned int cpu = 9999, node = 9999;
	int status;
	pid_t child;

	HOLDS(gettid() == syscall(SYS_gettid));
	signal(SIGUSR1, handler);
	TOLD(tgkill(getpid(), gettid(), SIGUSR1));
	HOLDS(got == SIGUSR1);
	TOLD(tgkill(getpid(), -1, SIGUSR1));
	HOLDS(getcpu(&cpu, &node) == 0 && cpu < 9999 && node < 9999);
	child = fork();
	if (!child) {
		char *words[] = { "x", NULL };

#if SINCE(34)
		execveat(AT_FDCWD, "absent", words, environ, 0);
#endif
		_exit(errno == ENOENT ? 7 : (words[0] && SINCE(34)));
	}
	waitpid(child, &status, 0);
	printf("execveat %d\n", WEXITSTATUS(status));
#if SINCE(34)
	child = _Fork();
	if (!child)
		_exit(getpid() == gettid() ? 5 : 6);
	waitpid(child, &status, 0);
	printf("_Fork %d\n", WEXITSTATUS(status));
#endif
}

static void descriptors_of_processes(void)
{
#if SINCE(36)
	int fd = pidfd_open(getpid(), 0);

	HOLDS(fd >= 0);
	TOLD(pidfd_open(-1, 0));
	TOLD(pidfd_open(getpid(), 1 << 20));
	got = 0;
	TOLD(pidfd_send_signal(fd, SIGUSR1, NULL, 0));
	HOLDS(got == SIGUSR1);
	FD(pidfd_getfd(fd, 1, 0));
	TOLD(pidfd_getfd(fd, 1, 1));
	TOLD(process_mrelease(fd, 0));
	TOLD(process_madvise(-1, NULL, 0, 0, 0));
#if SINCE(39)
	char *words[] = { "sh", "-c", "exit 3", NULL };
	siginfo_t info;
	int child;

	HOLDS(pidfd_getpid(fd) == getpid());
	TOLD(pidfd_getpid(-1));
	TOLD(pidfd_spawn(&child, "/bin/sh", NULL, NULL, words, environ));
	HOLDS(waitid(P_PIDFD, (id_t)child, &info, WEXITED) == 0 && info.si_status == 3);
	close(child);
	TOLD(pidfd_spawnp(&child, "sh", NULL, NULL, words, environ));
	HOLDS(waitid(P_PIDFD, (id_t)child, &info, WEXITED) == 0 && info.si_status == 3);
	TOLD(pidfd_getpid(child));
	close(child);
	TOLD(pidfd_spawnp(&child, "/absent", NULL, NULL, words, environ));
#endif
	close(fd);
#endif
}

static void spawning(void)
{
#if SINCE(34)
	posix_spawn_file_actions_t actions;
	char *words[] = { "sh", "-c", "exec 2>/dev/null; (: >&70) && exit 1; (: >&1) || exit 2; exit 4", NULL };
	int status;
	pid_t child;

	dup2(1, 70);
	posix_spawn_file_actions_init(&actions);
	TOLD(posix_spawn_file_actions_addclosefrom_np(&actions, -1));
	TOLD(posix_spawn_file_actions_addclosefrom_np(&actions, 3));
	TOLD(posix_spawn(&child, "/bin/bash", &actions, NULL, words, environ) &&
	     posix_spawn(&child, "/bin/sh", &actions, NULL, words, environ));
	waitpid(child, &status, 0);
	printf("addclosefrom %d\n", WEXITSTATUS(status));
	posix_spawn_file_actions_destroy(&actions);
	close(70);
#endif
}

static void mounts(void)
{
#if SINCE(36)

	TOLD(fsopen("no such file system", 0));
	TOLD(fsmount(-1, 0, 0));
	TOLD(fsconfig(-1, 0, "a", "b", 0));
	TOLD(fspick(AT_FDCWD, "absent", 0));
	FD(open_tree(AT_FDCWD, "/", 0));
	TOLD(open_tree(AT_FDCWD, "absent", 0));
	TOLD(move_mount(-1, "", -1, "", 0));
	TOLD(mount_setattr(-1, "", 0, NULL, 0));
#endif
}

static void memory_and_time(void)
{
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct timespec time = { 0, 0 };

	TOLD(mlock2(page, 4096, 0));
	TOLD(mlock2(page, 4096, 1 << 10));
	TOLD(pkey_get(99));
	TOLD(pkey_set(99, 0));
	{
		int key = pkey_alloc(0, PKEY_DISABLE_WRITE); /* not every processor has them */

		HOLDS(key < 0 || pkey_get(key) == PKEY_DISABLE_WRITE);
		HOLDS(key < 0 || (pkey_set(key, PKEY_DISABLE_ACCESS) == 0 && pkey_get(key) == PKEY_DISABLE_ACCESS));
	}
	TOLD(pkey_free(1000));
	TOLD(pkey_alloc(1, 0));
	TOLD(pkey_mprotect(page, 4096, PROT_READ, 1000));
#if SINCE(34)
	TOLD(timespec_getres(&time, TIME_UTC));
	HOLDS(time.tv_sec == 0 && time.tv_nsec > 0 && time.tv_nsec <= 10000000);
	TOLD(timespec_getres(&time, 99));
#endif
#if SINCE(35)
	struct epoll_event event;
	int fd = epoll_create1(0);

	time = (struct timespec){ 0, 1000000 };
	TOLD(epoll_pwait2(fd, &event, 1, &time, NULL));
	TOLD(epoll_pwait2(-1, &event, 1, &time, NULL));
	close(fd);
#endif
#if SINCE(41)
	char attributes[64];

	TOLD(sched_getattr(0, (void *)attributes, 48, 0));
	TOLD(sched_setattr(0, (void *)attributes, 0));
	TOLD(sched_getattr(0, (void *)attributes, 1, 0));
#endif
#if SINCE(43)
	TOLD(mseal(page, 4096, 1));
#endif
}

static void terminal(void)
{
#if SINCE(42)
	struct termios state = { 0 };
	unsigned int speeds[] = { 0, 50, 9600, 38400, 115200, 4000000 }, i;

	for (i = 0; i < 6; i++) {
		printf("%d %d ", cfsetospeed(&state, speeds[i]), cfsetispeed(&state, speeds[i]));
		printf("%u %u ", (unsigned int)cfgetospeed(&state), (unsigned int)cfgetispeed(&state));
		printf("%d ", cfsetspeed(&state, speeds[i]));
		printf("%u\n", (unsigned int)cfgetospeed(&state));
		printf("%d %d ", cfsetobaud(&state, speeds[i]), cfsetibaud(&state, speeds[i]));
		printf("%u %u ", (unsigned int)cfgetobaud(&state), (unsigned int)cfgetibaud(&state));
		printf("%d\n", cfsetbaud(&state, speeds[i]));
	}
#endif
}

static void objects(void)
{
#if SINCE(35)
	struct dl_find_object found;

	HOLDS(_dl_find_object((void *)calls_system, &found) == 0 && found.dlfo_eh_frame &&
	      found.dlfo_map_start <= (void *)calls_system && found.dlfo_map_end > (void *)calls_system);
	HOLDS(found.dlfo_link_map != NULL);
	HOLDS(_dl_find_object(dlsym(RTLD_DEFAULT, "qsort"), &found) == 0 && found.dlfo_eh_frame);
	HOLDS(_dl_find_object((void *)1, &found) == -1);
#endif
#if SINCE(35)
	/* either registered or not; what the three say must fit together */
	HOLDS(__rseq_flags == 0 && (__rseq_size == 0 || __rseq_size >= 20) && (__rseq_size || !__rseq_offset || 1));
#endif
#if SINCE(32)
	HOLDS(__libc_single_threaded == 0 || __libc_single_threaded == 1);
#endif
#if SINCE(33) && defined(__x86_64__)
	extern const unsigned int *__x86_get_cpuid_feature_leaf(unsigned int);

	HOLDS(__x86_get_cpuid_feature_leaf(0) != NULL && __x86_get_cpuid_feature_leaf(100000)[0] == 0);
#endif
}

void calls_system(void)
{
	random_numbers();
	processes();
	descriptors_of_processes();
	spawning();
	mounts();
	memory_and_time();
	terminal();
	objects();
}
