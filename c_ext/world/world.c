/* SPDX-License-Identifier: Apache-2.0
 *
 * The world check: preloaded into the programs of a step that PMI started with more than one task. When MPI_Init has
 * returned, MPI_COMM_WORLD must have as many ranks as the step has tasks, and where the host's MPI was put into the
 * container no other may be mapped. Otherwise one line, and the process ends with 125: N worlds of one rank would compute
 * the same thing N times and end with 0. An MPI that cannot meet the step's PMI server is not even called: only here is it
 * certain which one an interpreter has loaded.
 *
 *   /.fairlead/world/step   "tasks N", "node K", "library PREFIX", "end NAME" (plan/world.py), of this step on this node;
 *                           "refuse PATH... TAB WHY": an MPI that is known not to meet this PMI, and why
 *   /.fairlead/world/said   made by the one process of the node that speaks
 *
 * A program of sessions has no MPI_COMM_WORLD, but the process set mpi://WORLD, whose size is the same.
 *
 * Other ranks may have found their world and wait there for this one, so the step must end: NAME is a socket (in the
 * abstract name space) of slurmstepd's, who hears that an exit status of 125 is ours and not the program's.
 *
 * No other function of MPI is touched. What is not seen: an MPI linked into the program itself. */
#include "line.h"
#include "object.h"
#include "step.h"
#include "system.h"

#define EXPORT __attribute__((visibility("default")))

enum family { UNKNOWN, OPENMPI, MPICH, ABI };

static int checked;

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

static void why_split(struct line *line, const struct step *step, enum family family)
{
	const char *right = family == OPENMPI ? "pmix" : "pmi2";

	if (!step->has_pmi)
		line_add(line, "the program sees none of PMI's variables (does a wrapper clear the environment? let it keep PMI* and "
			  "PMIX*");
	else if (family != ABI && step->started && !text_begins(step->started, right)) {
		line_add(line, family == OPENMPI ? "this OpenMPI does not meet Slurm's " : "this MPICH does not meet Slurm's ");
		line_add(line, step->started);
		line_add(line, " server (start it with --mpi=");
		line_add(line, right);
	} else {
		line_add(line, "the MPI library did not reach the step's PMI server (see \"MPI does not start\" in fairlead's user.md");
	}
	line_add(line, ", or set FAIRLEAD_MPI_WORLD_CHECK=0 if this is meant)");
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
	line_add(&line, "fairlead: error [mpi]: the host's MPI was put into the container, but ");
	line_add(&line, path);
	line_add(&line, " is mapped: two MPI libraries, or the wrong one, in one process (use --container-mpi=image to run the image's "
		   "own MPI)");
	line_fail(data, &line);
}

static void judge(const struct step *step, const struct object *library, enum family family, long size, const char *end)
{
	struct line line = { .used = 0 };

	if (!size || size == step->tasks)
		return;
	line_add(&line, "fairlead: error [mpi]: ");
	line_add_number(&line, step->tasks);
	line_add(&line, " ranks were started, but MPI made worlds of ");
	line_add_number(&line, size);
	line_add(&line, ": ");
	why_split(&line, step, family);
	if (size == 1 && end) { /* alone, so that nobody is waited for; it removes the files of this world */
		int (*finalize)(void) = (int (*)(void))object_symbol(library, end);

		if (finalize)
			finalize();
	}
	line_fail(step, &line);
}

/* Whether a line's words name a path; where they end with a tab, that is returned, too. */
static int names(const char *words, const char *path, const char **ret_tab)
{
	int found = 0;

	while (*words && *words != '\t' && *words != '\n') {
		const char *rest = path;

		while (*rest && *words == *rest)
			words++, rest++;
		found |= !*rest && (*words == ' ' || *words == '\t');
		while (*words && *words != ' ' && *words != '\t' && *words != '\n')
			words++;
		while (*words == ' ')
			words++;
	}
	*ret_tab = *words == '\t' ? words : NULL;
	return found;
}

/* Before MPI_Init: what would stop there, with words that do not say why, or compute alone. The engine has warned of it on the
 * first node before the launch, and every node runs the same image: the others need not repeat it. */
static void refuse(const struct step *step, const char *function, const void *caller)
{
	struct object library = { .path = "" };
	struct line line = { .used = 0 };
	char path[1024], why[sizeof(line.text)];
	const char *tab;
	size_t used = 0;

	if (!step->refuses || !object_next(function, caller, &library) ||
	    system_resolve(library.path, path, sizeof(path)) <= 0)
		return;
	for (const char *at = step->text; *at; at++) {
		if ((at != step->text && at[-1] != '\n') || !text_begins(at, "refuse ") || !names(at + 7, path, &tab) || !tab)
			continue;
		for (tab++; *tab && *tab != '\n' && used < sizeof(why) - 1; tab++)
			why[used++] = *tab;
		why[used] = '\0';
		line_add(&line, "fairlead: error [mpi]: ");
		line_add(&line, system_resolve("/proc/self/exe", path, sizeof(path)) > 0 ? path : "the program");
		line_add(&line, ": ");
		line_add(&line, why);
		if (step->node > 0) {
			system_sleep_ms(300);
			system_exit(STATUS);
		}
		line_fail(step, &line);
	}
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

	line_add(&line, "fairlead: error [mpi]: ");
	line_add(&line, name);
	line_add(&line, ": no MPI library is loaded that has it (link the program to MPI)");
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
		step_expect(&step, NULL);                                                                    \
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
		step_expect(&step, NULL);                                                                              \
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
		refuse(&step, #name, caller);                                                               \
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
		step_expect(&step, NULL);                                                      \
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
		step_expect(&step, NULL);                                                                     \
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
