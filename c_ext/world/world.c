/* SPDX-License-Identifier: Apache-2.0
 *
 * The world check: preloaded into the programs of a step that PMI started with more than one task. When MPI_Init has
 * returned, MPI_COMM_WORLD must have as many ranks as the step has tasks, and where the host's MPI was put into the
 * container no other may be mapped. Otherwise one line, and the process ends with 125: N worlds of one rank would compute
 * the same thing N times and end with 0. An MPI that cannot meet the step's PMI server is not even called: only here is it
 * certain which one an interpreter has loaded.
 *
 *   /.fairlead/world/step   "tasks N", "node K", "library PREFIX", "end NAME", of this step on this node; "refuse PATH... TAB
 *                           WHY": an MPI that is known not to meet this PMI, and why (plan/world.py)
 *   /.fairlead/world/said   made by the one process of the node that speaks
 *
 * A program of sessions has no MPI_COMM_WORLD, but the process set mpi://WORLD, whose size is the same.
 *
 * Other ranks may have found their world and wait there for this one, so the step must end: NAME is a socket (in the
 * abstract name space) of slurmstepd's, who hears that an exit status of 125 is ours and not the program's.
 *
 * No other function of MPI is touched. What is not seen: an MPI linked into the program itself. */
#include "object.h"
#include "step.h"
#include "system.h"

#define EXPORT __attribute__((visibility("default")))
#define STATUS 125
/* As remote.c in the plugin does it. */
#ifndef SPEAK_AFTER_MS
#define SPEAK_AFTER_MS 3000
#endif
#define SPEAK_TURN_MS 50
#define SPEAK_LAST_MS 33000

enum family { UNKNOWN, OPENMPI, MPICH, ABI };

struct line {
	char text[1024];
	size_t used;
};

static int checked;

static void add(struct line *line, const char *text)
{
	while (*text && line->used < sizeof(line->text) - 2) {
		line->text[line->used++] = (unsigned char)*text < ' ' ? '?' : *text;
		text++;
	}
}

static void add_number(struct line *line, long number)
{
	char digits[24];
	int at = sizeof(digits) - 1;

	digits[at] = '\0';
	do
		digits[--at] = (char)('0' + number % 10);
	while (number /= 10);
	add(line, digits + at);
}

static enum family family_of(const struct object *library)
{
	if (text_begins(library->soname, "libmpi_abi"))
		return ABI;
	if (object_symbol(library, "ompi_mpi_comm_world"))
		return OPENMPI;
	/* By symbol, not by name: the handle below is MPICH's own. */
	return object_symbol(library, "MPIR_Err_create_code") || object_symbol(library, "MPII_Version_string") ||
			       object_symbol(library, "MPIR_Version_string") || text_begins(library->soname, "libmpi.so.12") ||
			       text_begins(library->soname, "libmpich.so.12") ?
		       MPICH :
		       UNKNOWN;
}

static long world_size(const struct object *library, enum family family, void *comm_size)
{
	int size = 0, failed = 1;

	if (family == OPENMPI)
		failed = ((int (*)(void *, int *))comm_size)(object_first("ompi_mpi_comm_world"), &size);
	else if (family == ABI) /* MPI 5.0, A.1: MPI_COMM_WORLD is 0x101 */
		failed = ((int (*)(void *, int *))comm_size)((void *)0x101, &size);
	else if (family == MPICH) /* an int in the MPICH ABI */
		failed = ((int (*)(int, int *))comm_size)(0x44000000, &size);
	(void)library;
	return failed ? 0 : size;
}

/* Tell slurmstepd that the status with which this process will end is ours. */
static void tell(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	long fd, length = 0;

	while (name[length] && length < (long)sizeof(address.sun_path) - 1)
		length++;
	for (long i = 0; i < length; i++)
		address.sun_path[i + 1] = name[i];
	fd = length ? system_call(SYS_socket, AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, 0) : -1;
	if (fd < 0)
		return;
	length += (long)offsetof(struct sockaddr_un, sun_path) + 1;
	if (system_call(SYS_connect, fd, (long)&address, length, 0) == 0)
		system_call(SYS_write, fd, (long)"", 1, 0);
	system_call(SYS_close, fd, 0, 0, 0);
}

static void on_term(int number)
{
	(void)number;
	system_exit(STATUS);
}

/* One process of the node speaks, of the first node at once; the others give it the time to end the step first. */
static _Noreturn void fail(const struct step *step, struct line *line)
{
	long wait_ms = SPEAK_AFTER_MS + step->node * SPEAK_TURN_MS;

	system_on_signal(SIGTERM, on_term); /* with which another rank ends the step: the status stays ours */
	if (system_create(PLACE "said") >= 0) {
		if (step->node > 0)
			system_sleep_ms(wait_ms > SPEAK_LAST_MS ? SPEAK_LAST_MS : wait_ms);
		line->text[line->used++] = '\n';
		system_call(SYS_write, 2, (long)line->text, (long)line->used, 0);
		tell(step->end);
	} else {
		system_sleep_ms(300); /* where the first bad exit ends the step, not before the line is out */
	}
	system_exit(STATUS);
}

static void why_split(struct line *line, const struct step *step, enum family family)
{
	const char *right = family == OPENMPI ? "pmix" : "pmi2";

	if (!step->has_pmi)
		add(line, "the program sees none of PMI's variables (does a wrapper clear the environment? let it keep PMI* and "
			  "PMIX*");
	else if (family != ABI && step->started && !text_begins(step->started, right)) {
		add(line, family == OPENMPI ? "this OpenMPI does not meet Slurm's " : "this MPICH does not meet Slurm's ");
		add(line, step->started);
		add(line, " server (start it with --mpi=");
		add(line, right);
	} else {
		add(line, "the MPI library did not reach the step's PMI server (see \"MPI does not start\" in fairlead's user.md");
	}
	add(line, ", or set FAIRLEAD_MPI_WORLD_CHECK=0 if this is meant)");
}

static int is_any(const struct object *object, void *data)
{
	(void)object, (void)data;
	return 2; /* where the visit ends at this library itself, it says 1 */
}

static int is_foreign(const struct object *object, void *data)
{
	const char *prefix = ((const struct step *)data)->library;
	struct line line = { .used = 0 };
	char path[1024];

	if (!object_symbol(object, "PMPI_Comm_size") ||
	    system_resolve(*object->path ? object->path : "/proc/self/exe", path, sizeof(path)) <= 0 ||
	    text_begins(path, prefix))
		return 0;
	add(&line, "fairlead: error [mpi]: the host's MPI was put into the container, but ");
	add(&line, path);
	add(&line, " is mapped: two MPI libraries, or the wrong one, in one process (use --container-mpi=image to run the image's "
		   "own MPI)");
	fail(data, &line);
}

static void judge(const struct step *step, const struct object *library, enum family family, long size, const char *end)
{
	struct line line = { .used = 0 };

	if (!size || size == step->tasks)
		return;
	add(&line, "fairlead: error [mpi]: ");
	add_number(&line, step->tasks);
	add(&line, " ranks were started, but MPI made worlds of ");
	add_number(&line, size);
	add(&line, ": ");
	why_split(&line, step, family);
	if (size == 1 && end) { /* alone, so that nobody is waited for; it removes the files of this world */
		int (*finalize)(void) = (int (*)(void))object_symbol(library, end);

		if (finalize)
			finalize();
	}
	fail(step, &line);
}

/* Before MPI_Init: what would stop there, with words that do not say why, or compute alone. The engine has warned of it on the
 * first node before the launch, and every node runs the same image: the others need not repeat it. */
static void refuse(const struct step *step, const char *function, const void *caller)
{
	struct object library = { .path = "" };
	struct line line = { .used = 0 };
	char path[1024], why[sizeof(line.text)];

	if (!step->refuses || !object_next(function, caller, &library) ||
	    system_resolve(library.path, path, sizeof(path)) <= 0 || !step_refuses(step, path, why, sizeof(why)))
		return;
	add(&line, "fairlead: error [mpi]: ");
	add(&line, system_resolve("/proc/self/exe", path, sizeof(path)) > 0 ? path : "the program");
	add(&line, ": ");
	add(&line, why);
	if (step->node > 0) {
		system_sleep_ms(300);
		system_exit(STATUS);
	}
	fail(step, &line);
}

/* Whether this is the call after which the world is looked at, and by which library. */
static enum family begin(const struct step *step, const char *name, const void *caller, struct object *ret, void **function)
{
	if (!step->tasks || __atomic_exchange_n(&checked, 1, __ATOMIC_ACQ_REL))
		return UNKNOWN;
	if (*step->library)
		object_each("PMPI_Init", is_foreign, (void *)step);
	*function = object_next(name, caller, ret);
	return *function ? family_of(ret) : UNKNOWN;
}

static void check(const struct step *step, const void *caller)
{
	struct object library = { .soname = "" };
	void *comm_size;
	enum family family = begin(step, "PMPI_Comm_size", caller, &library, &comm_size);

	if (family != UNKNOWN)
		judge(step, &library, family, world_size(&library, family, comm_size), "PMPI_Finalize");
}

/* MPICH's handles are numbers, the others' are pointers; a session and a group of either fit into a pointer. */
static long set_size(const struct object *library, enum family family, void *session, void *from_set)
{
	int (*group_size)(void *, int *) = (int (*)(void *, int *))object_symbol(library, "PMPI_Group_size");
	int (*group_free)(void **) = (int (*)(void **))object_symbol(library, "PMPI_Group_free");
	void *group = NULL;
	int size = 0;

	if (family == MPICH)
		session = (void *)(intptr_t)*(int *)session;
	else
		session = *(void **)session;
	if (!group_size || !group_free ||
	    ((int (*)(void *, const char *, void **))from_set)(session, "mpi://WORLD", &group))
		return 0;
	if (group_size(group, &size))
		size = 0;
	group_free(&group);
	return size;
}

static void check_session(const struct step *step, const void *caller, void *session)
{
	struct object library = { .soname = "" };
	void *from_set;
	enum family family = begin(step, "PMPI_Group_from_session_pset", caller, &library, &from_set);

	if (family != UNKNOWN)
		judge(step, &library, family, set_size(&library, family, session, from_set), NULL);
}

/* What LD_PRELOAD puts before this library is called instead of it: an MPI there is seen now or never. */
__attribute__((constructor)) static void start(int argc, char **argv, char **envp)
{
	struct step step;

	(void)argc, (void)argv;
	if (object_each_before("PMPI_Init", is_any, NULL) != 2)
		return;
	step_expect(&step, envp);
	if (step.tasks && *step.library)
		object_each_before("PMPI_Init", is_foreign, &step);
}

static _Noreturn void absent(const char *name)
{
	struct line line = { .used = 0 };

	add(&line, "fairlead: error [mpi]: ");
	add(&line, name);
	add(&line, ": no MPI library is loaded that has it (link the program to MPI)");
	line.text[line.used++] = '\n';
	system_call(SYS_write, 2, (long)line.text, (long)line.used, 0);
	system_exit(127); /* as the loader, for an undefined symbol */
}

static void *next(const char *name, const void *caller)
{
	void *function = object_next(name, caller, NULL);

	if (!function)
		absent(name);
	return function;
}

#define INIT_C(name)                                                                              \
	EXPORT int name(int *argc, char ***argv);                                                 \
	int name(int *argc, char ***argv)                                                         \
	{                                                                                         \
		const void *caller = __builtin_return_address(0);                                 \
		struct step step;                                                                 \
		int result;                                                                       \
                                                                                                  \
		step_expect(&step, NULL);                                                         \
		refuse(&step, #name, caller);                                                     \
		result = ((int (*)(int *, char ***))next(#name, caller))(argc, argv);             \
		if (!result)                                                                      \
			check(&step, caller);                                                     \
		return result;                                                                    \
	}

#define INIT_THREAD_C(name)                                                                                 \
	EXPORT int name(int *argc, char ***argv, int required, int *provided);                              \
	int name(int *argc, char ***argv, int required, int *provided)                                      \
	{                                                                                                   \
		const void *caller = __builtin_return_address(0);                                           \
		struct step step;                                                                           \
		int result;                                                                                 \
                                                                                                            \
		step_expect(&step, NULL);                                                                   \
		refuse(&step, #name, caller);                                                               \
		result = ((int (*)(int *, char ***, int, int *))next(#name, caller))(argc, argv, required,   \
										     provided);             \
		if (!result)                                                                                \
			check(&step, caller);                                                               \
		return result;                                                                              \
	}

#define INIT_SESSION_C(name)                                                                                \
	EXPORT int name(void *info, void *handler, void *session);                                          \
	int name(void *info, void *handler, void *session)                                                  \
	{                                                                                                   \
		const void *caller = __builtin_return_address(0);                                           \
		struct step step;                                                                           \
		int result;                                                                                 \
                                                                                                            \
		step_expect(&step, NULL);                                                                              \
		refuse(&step, #name, caller);                                                                          \
		result = ((int (*)(void *, void *, void *))next(#name, caller))(info, handler, session);    \
		if (!result)                                                                                \
			check_session(&step, caller, session);                                              \
		return result;                                                                              \
	}

/* Fortran: arguments by reference, the error last. */
#define INIT_FORTRAN(name)                                                          \
	EXPORT void name(int *error);                                               \
	void name(int *error)                                                       \
	{                                                                           \
		const void *caller = __builtin_return_address(0);                   \
		struct step step;                                                   \
                                                                                    \
		step_expect(&step, NULL);                                           \
		refuse(&step, #name, caller);                                       \
		((void (*)(int *))next(#name, caller))(error);                      \
		if (!error || !*error)                                              \
			check(&step, caller);                                       \
	}

#define INIT_THREAD_FORTRAN(name)                                                                  \
	EXPORT void name(int *required, int *provided, int *error);                                \
	void name(int *required, int *provided, int *error)                                        \
	{                                                                                          \
		const void *caller = __builtin_return_address(0);                                  \
		struct step step;                                                                  \
                                                                                                   \
		step_expect(&step, NULL);                                                          \
		refuse(&step, #name, caller);                                                      \
		((void (*)(int *, int *, int *))next(#name, caller))(required, provided, error);   \
		if (!error || !*error)                                                             \
			check(&step, caller);                                                      \
	}

/* The P forms too: a tool that was preloaded before us has its own MPI_Init and calls these. */
INIT_C(MPI_Init)
INIT_C(PMPI_Init)
INIT_THREAD_C(MPI_Init_thread)
INIT_THREAD_C(PMPI_Init_thread)
INIT_SESSION_C(MPI_Session_init)
INIT_SESSION_C(PMPI_Session_init)
INIT_FORTRAN(mpi_init_)
INIT_FORTRAN(pmpi_init_)
INIT_THREAD_FORTRAN(mpi_init_thread_)
INIT_THREAD_FORTRAN(pmpi_init_thread_)
