/* SPDX-License-Identifier: Apache-2.0
 *
 * One container per node and step. The first task that takes the lock builds it (through the engine) and parks the
 * descriptors as a message in a socket pair that all tasks inherited; every task peeks at the message and thereby gets
 * its own copies. The lock is robust: when the builder is killed, the next task takes over. When the step ends,
 * slurmstepd's end closes the socket and with it the namespaces: nothing has to be cleaned up. */
#include "remote.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "arguments.h"
#include "broker.h"
#include "broker_start.h"
#include "container.h"
#include "exec.h"
#include "leftovers.h"
#include "lost_world.h"
#include "namespace.h"
#include "options.h"
#include "seal.h"
#include "slurm_api.h"
#include "step_end.h"

#define PROTOCOL "1"
/* How long a node other than the first lets the others speak: in turn, so that a thousand failing nodes do not all speak
 * (and cancel) in one instant; the first to do so ends the step for the rest. */
#define SPEAK_AFTER_MS 3000
#define SPEAK_TURN_MS 50
#define SPEAK_LAST_MS 33000

enum state { STATE_NONE, STATE_READY, STATE_FAILED };

struct shared {
	pthread_mutex_t lock;
	int state;
	int status;
};

struct facts {
	uint32_t job, step, nodes, node, local_tasks, tasks;
	char cwd[OPTION_MAX];
	int multi_prog;
	const char *script;  /* of a batch step */
	const char *command; /* argv[0] without its seal */
};

static char early_error[256];
static struct shared *shared;
static int parked[2] = { -1, -1 };
static int broker = -1;
static pid_t stepd;

static void remember(const char *what, int err)
{
	if (!*early_error)
		snprintf(early_error, sizeof(early_error), "error [slurm]: %s: %s", what, strerror(err));
}

void remote_init(spank_t spank, int argc, char *argv[])
{
	arguments_read(argc, argv);
	if (options_register(spank, arguments.pyxis_compat) < 0)
		remember("cannot register the options", EINVAL);
}

static void job_variable(spank_t spank, const char *name, char *ret, size_t size)
{
	if (spank_getenv(spank, name, ret, (int)size) != ESPANK_SUCCESS)
		*ret = '\0';
}

/* Whether this step runs in a container, by the job's own words and the kind of step. */
static int wanted(spank_t spank)
{
	char reference[OPTION_MAX], batch[4];
	uint32_t step = 0;

	job_variable(spank, VARIABLE_REFERENCE, reference, sizeof(reference));
	if (!*reference || spank_get_item(spank, S_JOB_STEPID, &step) != ESPANK_SUCCESS)
		return 0;
	if (step == STEP_EXTERN || step == STEP_INTERACTIVE)
		return 0; /* adopts processes; or is salloc's shell, on the host like a batch script */
	job_variable(spank, VARIABLE_BATCH, batch, sizeof(batch));
	return step != STEP_BATCH || strcmp(batch, "1") == 0;
}

void remote_start_broker(spank_t spank)
{
	struct broker_request_for request = { .store = arguments.site, .prefix = arguments.prefix,
					      .grace_s = arguments.grace_s, .upper_max = arguments.upper_max };

	if (!*arguments.site || !wanted(spank) || spank_get_item(spank, S_JOB_UID, &request.uid) != ESPANK_SUCCESS ||
	    spank_get_item(spank, S_JOB_GID, &request.gid) != ESPANK_SUCCESS ||
	    spank_get_item(spank, S_JOB_ID, &request.job) != ESPANK_SUCCESS || request.uid == 0)
		return;
	broker = broker_start(&request); /* without one the engine uses the user's own store */
}

void remote_user_init(spank_t spank)
{
	pthread_mutexattr_t attributes;
	void *memory;

	if (!wanted(spank))
		return;
	memory = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		remember("shared memory", errno);
		return;
	}
	shared = memory;
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&shared->lock, &attributes);
	pthread_mutexattr_destroy(&attributes);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, parked) < 0)
		remember("socket pair", errno);
	stepd = getpid();
	leftovers_begin();
	lost_world_listen(spank);
}

static void on_term(int signal)
{
	(void)signal;
	if (!engine_stop())
		_exit(125);
}

/* slurmstepd's handlers were inherited; with them SIGTERM would be lost until KillWait is over. Its name, too: the
 * process tracker spares processes called slurmstepd. */
static void become_task(void)
{
	static const int signals[] = { SIGINT, SIGQUIT, SIGHUP, SIGPIPE, SIGCHLD, SIGUSR1, SIGUSR2, SIGALRM, SIGCONT,
				       SIGTSTP, SIGTTIN, SIGTTOU };
	sigset_t none;

	for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		signal(signals[i], SIG_DFL);
	signal(SIGTERM, on_term);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_NAME, "fairlead-init");
	if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 || getppid() != stepd)
		_exit(125); /* a pull, and who waits for it, end with slurmstepd; enter.c: who has entered */
}

__attribute__((format(printf, 2, 3))) static _Noreturn void refuse(int status, const char *format, ...)
{
	char line[2200];
	va_list list;

	va_start(list, format);
	vsnprintf(line, sizeof(line), format, list);
	va_end(list);
	slurm_spank_log("fairlead: %s", report_printable(line));
	_exit(status);
}

/* A client without the plugin leaves Slurm's label and nothing else: the job asked for a container and would run on the
 * host. With an oci.conf the label is Slurm's own business. */
static void check_client(spank_t spank)
{
	char reference[OPTION_MAX], label[OPTION_MAX], conf[OPTION_MAX];
	uint32_t step = STEP_BATCH;

	job_variable(spank, VARIABLE_REFERENCE, reference, sizeof(reference));
	job_variable(spank, "SLURM_CONTAINER", label, sizeof(label));
	job_variable(spank, "SLURM_CONF", conf, sizeof(conf));
	if (*reference || !*label || strcmp(label, "none") == 0 ||
	    spank_get_item(spank, S_JOB_STEPID, &step) != ESPANK_SUCCESS || step >= STEP_INTERACTIVE ||
	    slurm_api_has_oci_conf(*conf ? conf : NULL))
		return;
	refuse(125, "error [slurm]: --container=%s was given where the fairlead plugin is not installed "
	       "(install it on the submitting host)", label);
}

static void check_identity(spank_t spank)
{
	uid_t uid = (uid_t)-1, real, effective, saved;

	if (spank_get_item(spank, S_JOB_UID, &uid) != ESPANK_SUCCESS || getresuid(&real, &effective, &saved) < 0 ||
	    real != uid || effective != uid || saved != uid)
		refuse(125, "error [slurm]: this task does not run as the job's user");
	if (uid == 0)
		refuse(125, "error [root]: containers do not run as root (submit the job as an ordinary user)");
}

static void read_facts(spank_t spank, struct facts *ret, char ***ret_argv)
{
	char **argv = NULL, *seal;
	int argc = 0;

	memset(ret, 0, sizeof(*ret));
	spank_get_item(spank, S_JOB_ID, &ret->job);
	spank_get_item(spank, S_JOB_STEPID, &ret->step);
	spank_get_item(spank, S_JOB_NNODES, &ret->nodes);
	spank_get_item(spank, S_JOB_NODEID, &ret->node);
	spank_get_item(spank, S_JOB_LOCAL_TASK_COUNT, &ret->local_tasks);
	spank_get_item(spank, S_JOB_TOTAL_TASK_COUNT, &ret->tasks);
	if (!getcwd(ret->cwd, sizeof(ret->cwd)) || ret->cwd[0] != '/')
		ret->cwd[0] = '\0';
	if (spank_get_item(spank, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS || argc < 1 || !argv || !argv[0])
		refuse(125, "error [slurm]: slurmstepd does not show the command to the plugin");
	seal = (char *)seal_open(argv[0]);
	if (seal)
		argv[0] = seal;
	/* The client seals either the command or the configuration's text; a batch script's words are the user's. */
	ret->multi_prog = ret->step != STEP_BATCH && !seal && argc >= 2 && strstr(argv[1], SEAL_PROGRAM) != NULL;
	ret->script = ret->step == STEP_BATCH ? argv[0] : NULL;
	ret->command = argv[0];
	*ret_argv = argv;
}

static void add(FILE *out, const char *key, const char *value)
{
	if (value && *value)
		fprintf(out, "%s=%s%c", key, value, 0);
}

static void add_number(FILE *out, const char *key, uint32_t value)
{
	fprintf(out, "%s=%u%c", key, value, 0);
}

/* Fills the request, too, whose engine is still to be reaped. */
static void build(spank_t spank, const struct facts *facts, struct engine_request *request,
		  struct channel_message *message, int fds[CHANNEL_FDS])
{
	char *text = NULL, helper[OPTION_MAX + 64];
	FILE *out = open_memstream(&text, &request->facts_size);

	if (!out || spank_get_item(spank, S_JOB_ENV, &request->environment) != ESPANK_SUCCESS)
		refuse(125, "error [slurm]: slurmstepd does not show the environment to the plugin");
	snprintf(helper, sizeof(helper), "%s/libexec/fairlead/fairlead-enter", arguments.prefix);
	add(out, "protocol", PROTOCOL);
	options_facts(out, request->environment);
	add(out, "execute_entrypoint", arguments.execute_entrypoint ? "1" : NULL);
	add(out, "scope", arguments.scope);
	add(out, "cwd", facts->cwd);
	add(out, "script", facts->script);
	add(out, "command", facts->multi_prog ? NULL : facts->command);
	add(out, "multi_prog", facts->multi_prog ? "1" : NULL);
	add(out, "helper", facts->multi_prog ? helper : NULL);
	/* Of the tasks' number a plan depends on this alone: whether there is a world to lose. */
	add(out, "several", facts->tasks > 1 ? "1" : NULL);
	add(out, "broker", broker >= 0 ? "1" : NULL);
	add_number(out, "jobid", facts->job);
	add_number(out, "stepid", facts->step);
	add_number(out, "nnodes", facts->nodes);
	add_number(out, "nodeid", facts->node);
	add_number(out, "ntasks", facts->tasks);
	add_number(out, "local_tasks", facts->local_tasks);
	if (fclose(out) != 0)
		refuse(125, "error [slurm]: out of memory");
	request->facts = text;
	container_build(request, message, fds);
	free(text);
	if (broker >= 0)
		broker_end(broker);
}

/* One line for the step, not one per node: the first node speaks at once and ends the step; the others wait for that
 * and speak only if it does not come, because then the failure is theirs alone. */
static _Noreturn void fail(spank_t spank, const struct facts *facts, const struct channel_message *message)
{
	struct timespec turn;
	uint64_t wait_ms = SPEAK_AFTER_MS + (uint64_t)facts->node * SPEAK_TURN_MS;
	char line[sizeof(message->text)];

	shared->status = message->status;
	shared->state = STATE_FAILED;
	pthread_mutex_unlock(&shared->lock);
	if (facts->node > 0) {
		wait_ms = wait_ms > SPEAK_LAST_MS ? SPEAK_LAST_MS : wait_ms;
		turn = (struct timespec){ .tv_sec = (time_t)(wait_ms / 1000), .tv_nsec = (long)(wait_ms % 1000) * 1000000 };
		nanosleep(&turn, NULL);
	}
	snprintf(line, sizeof(line), "%s", message->text);
	slurm_spank_log("fairlead: %s", report_printable(line));
	signal(SIGTERM, SIG_IGN); /* our own, on its way back */
	/* Tasks that have not come as far as become_task() would die of the signal, and srun would report 143. */
	if (facts->nodes > 1)
		sleep(1);
	step_end(spank, facts->nodes, facts->job, facts->step);
	_exit(message->status);
}

static int lock(void)
{
	int err = pthread_mutex_lock(&shared->lock);

	if (err == EOWNERDEAD)
		err = pthread_mutex_consistent(&shared->lock); /* the builder was killed; its work is ours */
	return err;
}

/* Descriptors of the step's container, building it if this task is the first. */
static void get_container(spank_t spank, const struct facts *facts, int fds[CHANNEL_FDS])
{
	struct engine_request request = { .prefix = arguments.prefix, .broker = broker, .note = leftovers_note() };
	struct channel_message message;
	int err = lock();

	if (err)
		refuse(125, "error [slurm]: cannot take the step's lock: %s", strerror(err));
	if (shared->state == STATE_NONE) {
		build(spank, facts, &request, &message, fds);
		if (message.status != 0)
			fail(spank, facts, &message);
		err = channel_send(parked[0], 0, NULL, fds);
		if (err < 0) {
			message.status = 125;
			snprintf(message.text, sizeof(message.text), "error [slurm]: cannot share the container: %s",
				 strerror(-err));
			fail(spank, facts, &message);
		}
		shared->state = STATE_READY;
		pthread_mutex_unlock(&shared->lock);
		engine_reap(&request); /* what it frees in its end keeps only this task */
		return;
	}
	pthread_mutex_unlock(&shared->lock);
	if (shared->state == STATE_FAILED)
		_exit(shared->status); /* the line was printed by the builder */
	err = channel_receive(parked[1], MSG_PEEK | MSG_DONTWAIT, &message, fds);
	if (err != 1)
		refuse(125, "error [slurm]: cannot join the container: %s", strerror(err ? -err : EPIPE));
}

/* From here slurmstepd goes on with TaskProlog, on the host, and then executes fairlead-enter, which joins the
 * container and executes the application. Where the command cannot be replaced (--multi-prog before 23.02.5), the task
 * joins here, TaskProlog runs inside, and the sealed command finds fairlead-enter in the container. */
static void hand_over(spank_t spank, const struct facts *facts, char **argv, int fds[CHANNEL_FDS])
{
	char helper[OPTION_MAX + 64], numbers[96];
	struct report report;
	int err;

	snprintf(helper, sizeof(helper), "%s/libexec/fairlead/fairlead-enter", arguments.prefix);
	if (access(helper, X_OK) < 0)
		refuse(125, "error [slurm]: %s: %s (check the installation on this node)", helper, strerror(errno));
	err = slurm_api_prepend(spank, helper);
	if (err == -EIO)
		refuse(125, "error [slurm]: slurmstepd refused to change the command");
	if (!err)
		spank_unsetenv(spank, "_FAIRLEAD_COMMAND"); /* a user's; fairlead-enter would take it for ours */
	if (err == -ENOSYS && !facts->multi_prog) {
		if (spank_setenv(spank, "_FAIRLEAD_COMMAND", facts->command, 1) != ESPANK_SUCCESS)
			refuse(125, "error [slurm]: cannot set the task's environment");
		argv[0] = strdup(helper);
	}
	if (err == -ENOSYS && facts->multi_prog) {
		if (namespace_join(fds[CHANNEL_USERNS], fds[CHANNEL_MNTNS], &report) < 0 ||
		    namespace_join_further(fds, &report) < 0 || exec_drop_privileges(&report) < 0)
			refuse(125, "error [namespace]: cannot join the container: %s: %s", report.detail,
			       strerror(report.err));
		for (int i = 0; i < CHANNEL_FDS; i++)
			fds[i] = i == CHANNEL_BLOCK ? fds[i] : -1;
	}
	for (int i = 0; i < CHANNEL_FDS; i++)
		if (fds[i] >= 0 && fcntl(fds[i], F_SETFD, 0) < 0)
			refuse(125, "error [slurm]: descriptor: %s", strerror(errno));
	snprintf(numbers, sizeof(numbers), "%d:%d:%d:%d:%d:%d", fds[0], fds[1], fds[2], fds[3], fds[4], fds[5]);
	if (spank_setenv(spank, "_FAIRLEAD_ENTER", numbers, 1) != ESPANK_SUCCESS)
		refuse(125, "error [slurm]: cannot set the task's environment");
}

void remote_task_init(spank_t spank)
{
	int fds[CHANNEL_FDS];
	struct facts facts;
	char **argv;

	if (!wanted(spank)) {
		check_client(spank);
		return; /* a sealed command then fails to execute, as it must */
	}
	if (*early_error || !shared || parked[0] < 0)
		refuse(125, "%s", *early_error ? early_error : "error [slurm]: the plugin was not prepared");
	check_identity(spank);
	become_task();
	read_facts(spank, &facts, &argv);
	get_container(spank, &facts, fds);
	hand_over(spank, &facts, argv, fds);
	signal(SIGTERM, SIG_DFL);
}
