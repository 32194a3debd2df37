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

#include "after.h"
#include "arguments.h"
#include "broker.h"
#include "broker_start.h"
#include "component.h"
#include "gate.h"
#include "hand_over.h"
#include "launch_log.h"
#include "leftovers.h"
#include "lost_world.h"
#include "options.h"
#include "refuse.h"
#include "report.h"
#include "seal.h"
#include "slurm_api.h"
#include "step_end.h"
#include "step_request.h"

/* How long a node other than the first lets the others speak: in turn, so that a thousand failing nodes do not all speak
 * (and cancel) in one instant; the first to do so ends the step for the rest. */
#define SPEAK_AFTER_MS 3000
#define SPEAK_TURN_MS 50
#define SPEAK_LAST_MS 33000

enum state { STATE_NONE, STATE_AT_GATE, STATE_READY, STATE_FAILED };

struct shared {
	pthread_mutex_t lock;
	int state;
	int status;
	struct launch_record record;
};

static char early_error[256];
static struct shared *shared;
static int parked[2] = { -1, -1 }, broker = -1;
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

	if (!wanted(spank))
		return;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED) {
		shared = NULL;
		remember("shared memory", errno);
		return;
	}
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&shared->lock, &attributes);
	pthread_mutexattr_destroy(&attributes);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, parked) < 0)
		remember("socket pair", errno);
	stepd = getpid();
	launch_log_begin(spank, &shared->record);
	leftovers_begin();
	lost_world_listen(spank);
	after_listen();
}

static int at_gate = -1; /* the hub's connection, for a signal's handler */

static void on_term(int signal)
{
	(void)signal;
	if (at_gate >= 0)
		gate_left(at_gate);
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

static _Noreturn void end_silently(int status)
{
	shared->status = status;
	shared->state = STATE_FAILED;
	pthread_mutex_unlock(&shared->lock);
	_exit(status);
}

/* Where the step has a hub, it speaks. Else one line for the step, not one per node: the first node speaks at once and
 * ends the step; the others wait for that and speak only if it does not come, because then the failure is theirs alone. */
static _Noreturn void fail(spank_t spank, const struct step_facts *facts, const struct gate *gate,
			   const struct channel_message *message)
{
	struct timespec turn;
	uint64_t wait_ms = SPEAK_AFTER_MS + (uint64_t)facts->node * SPEAK_TURN_MS;
	char line[sizeof(message->text)];
	int told = -1;

	if (gate->fd >= 0) {
		gate_failed(gate, message->status, message->text);
		told = gate_wait(gate);
	}
	if (told >= 0)
		end_silently(told ? told : message->status);
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

/* Meet the step's other nodes in srun, if it offers a hub. Neither a plan nor the ranks are to know of it. */
static void come_to_gate(spank_t spank, const struct step_facts *facts, struct gate *ret_gate)
{
	char where[256], host[256], name[256], nodes[OPTION_MAX];
	struct channel_message message = { .status = 125 };
	int err;

	*ret_gate = (struct gate){ .fd = -1 };
	job_variable(spank, VARIABLE_HUB, where, sizeof(where));
	spank_unsetenv(spank, VARIABLE_HUB);
	if (!*where || facts->step >= STEP_INTERACTIVE)
		return;
	job_variable(spank, "SLURM_LAUNCH_NODE_IPADDR", host, sizeof(host));
	if (!*host)
		job_variable(spank, "SLURM_SRUN_COMM_HOST", host, sizeof(host));
	job_variable(spank, "SLURMD_NODENAME", name, sizeof(name));
	job_variable(spank, "SLURM_STEP_NODELIST", nodes, sizeof(nodes));
	shared->state = STATE_AT_GATE;
	err = gate_open(ret_gate, &(struct gate_node){ host, where, facts->node, name, nodes });
	at_gate = ret_gate->fd;
	if (!err)
		return;
	snprintf(message.text, sizeof(message.text),
		 "error [gate]: %s: cannot reach srun's hub at %s, port %.*s: %s (is the port open to the nodes? see "
		 "SrunPortRange; FAIRLEAD_GATE=0 does without)", name, host, (int)strcspn(where, ":"), where, strerror(-err));
	fail(spank, facts, ret_gate, &message);
}

/* Nobody runs before all nodes can. */
static void pass_gate(spank_t spank, const struct step_facts *facts, const struct gate *gate, const char *same)
{
	struct channel_message message = { .status = 125 };
	int told;

	if (gate->fd < 0)
		return;
	gate_ready(gate, same);
	told = gate_wait(gate);
	if (told > 0) {
		message.status = told;
		snprintf(message.text, sizeof(message.text), "ended by srun's hub before its ranks ran, for what it said");
		launch_log_built(&shared->record, &message, -1, 0);
		end_silently(told);
	}
	at_gate = -1;
	close(gate->fd);
	if (told == 0)
		return;
	snprintf(message.text, sizeof(message.text),
		 "error [gate]: lost srun's hub before all nodes were ready: %s (was it killed? is srun's host up?)",
		 strerror(-told));
	fail(spank, facts, &(struct gate){ .fd = -1 }, &message);
}

static int lock(void)
{
	int err = pthread_mutex_lock(&shared->lock);

	if (err == EOWNERDEAD)
		err = pthread_mutex_consistent(&shared->lock); /* the builder was killed; its work is ours */
	return err;
}

/* With the lock held: build the step's container on this node and park it for the other tasks. */
static void make_container(spank_t spank, const struct step_facts *facts, int fds[CHANNEL_FDS])
{
	struct engine_request request = { .prefix = arguments.prefix, .broker = broker, .note = leftovers_note() };
	struct channel_message message;
	struct gate gate;
	int err;

	come_to_gate(spank, facts, &gate);
	request.gate = gate.fd;
	if (spank_get_item(spank, S_JOB_ENV, &request.environment) != ESPANK_SUCCESS)
		refuse(125, "error [slurm]: slurmstepd does not show the environment to the plugin");
	step_request_build(facts, &request, &message, fds);
	if (broker >= 0)
		broker_end(broker);
	launch_log_built(&shared->record, &message, fds[CHANNEL_BLOCK], request.kept);
	if (message.status != 0)
		fail(spank, facts, &gate, &message);
	after_offer(fds[CHANNEL_BLOCK]);
	pass_gate(spank, facts, &gate, message.text);
	err = channel_send(parked[0], 0, NULL, fds);
	if (err < 0) {
		message.status = 125;
		snprintf(message.text, sizeof(message.text), "error [slurm]: cannot share the container: %s",
			 strerror(-err));
		fail(spank, facts, &(struct gate){ .fd = -1 }, &message);
	}
	shared->state = STATE_READY;
	pthread_mutex_unlock(&shared->lock);
	engine_reap(&request); /* what it frees in its end keeps only this task */
}

/* Descriptors of the step's container, building it if this task is the first. */
static void get_container(spank_t spank, const struct step_facts *facts, int fds[CHANNEL_FDS])
{
	struct channel_message message;
	int err = lock();

	if (err)
		refuse(125, "error [slurm]: cannot take the step's lock: %s", strerror(err));
	if (shared->state == STATE_NONE) {
		make_container(spank, facts, fds);
		return;
	}
	pthread_mutex_unlock(&shared->lock);
	if (shared->state == STATE_AT_GATE)
		_exit(125); /* the builder was killed there: the hub has seen it, and says so */
	if (shared->state == STATE_FAILED)
		_exit(shared->status); /* the line was printed */
	spank_unsetenv(spank, VARIABLE_HUB);
	err = channel_receive(parked[1], MSG_PEEK | MSG_DONTWAIT, &message, fds);
	if (err != 1)
		refuse(125, "error [slurm]: cannot join the container: %s", strerror(err ? -err : EPIPE));
}

void remote_task_init(spank_t spank)
{
	int fds[CHANNEL_FDS];
	struct step_facts facts;
	char **argv;

	if (component_is_lost())
		refuse(125, "error [slurm]: the components of this step cannot be told apart: --export, or a plugin, has "
		       "taken the variable that numbers them (run separate sruns)");
	if (!wanted(spank)) {
		component_open_seal(spank);
		check_client(spank);
		return; /* a sealed command then fails to execute, as it must */
	}
	if (*early_error || !shared || parked[0] < 0)
		refuse(125, "%s", *early_error ? early_error : "error [slurm]: the plugin was not prepared");
	check_identity(spank);
	become_task();
	step_request_read(spank, &facts, &argv);
	get_container(spank, &facts, fds);
	hand_over(spank, &facts, argv, fds);
	signal(SIGTERM, SIG_DFL);
}

void remote_exit(void)
{
	if (shared && *arguments.log)
		launch_log_write(&shared->record, arguments.log);
	leftovers_sweep();
}
