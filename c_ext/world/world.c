/* SPDX-License-Identifier: Apache-2.0
 *
 * The world check: preloaded into the programs of a step that PMI started with more than one task. When MPI_Init has
 * returned, MPI_COMM_WORLD must have as many ranks as the step has tasks, and where the host's MPI was put into the
 * container no other may be mapped. Otherwise one line, and the process ends with 125: N worlds of one rank would compute
 * the same thing N times and end with 0. An MPI that cannot meet the step's PMI server is not even called: only here is it
 * certain which one an interpreter has loaded.
 *
 *   /.fairlead/world/step   "tasks N", "node K", "library PREFIX", of this step on this node; "refuse PATH... TAB WHY":
 *                           an MPI that is known not to meet this PMI, and why (plan/world.py)
 *   /.fairlead/world/said   made by the one process of the node that speaks
 *
 * No other function of MPI is touched. What is not seen: an MPI linked into the program itself, and MPI_Session_init,
 * which has no world. */
#include "object.h"
#include "system.h"

#ifndef PLACE /* tests have one of their own */
#define PLACE "/.fairlead/world/"
#endif
#define EXPORT __attribute__((visibility("default")))
#define STATUS 125

extern char **environ __attribute__((weak));

enum family { UNKNOWN, OPENMPI, MPICH, ABI };

/* What is known before MPI_Init: afterwards MPI has set variables of its own. */
struct step {
	long tasks, node;
	char library[256];
	const char *started; /* SLURM_MPI_TYPE */
	int has_pmi;
	int refuses; /* some line of text does */
	char text[4096];
};

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

static const char *variable(const char *name)
{
	size_t length = 0;

	while (name[length])
		length++;
	for (char **at = environ; at && *at; at++)
		if (text_begins(*at, name) && (*at)[length] == '=')
			return *at + length + 1;
	return NULL;
}

static long number(const char *text)
{
	long value = 0;

	for (; text && *text >= '0' && *text <= '9' && value < 100000000; text++)
		value = 10 * value + (*text - '0');
	return value;
}

static void take_line(struct step *step, const char *text)
{
	size_t at = 0;

	if (text_begins(text, "tasks "))
		step->tasks = number(text + 6);
	else if (text_begins(text, "node "))
		step->node = number(text + 5);
	else if (text_begins(text, "refuse "))
		step->refuses = 1;
	else if (text_begins(text, "library "))
		for (text += 8; *text && *text != '\n' && at < sizeof(step->library) - 1; text++)
			step->library[at++] = *text;
	if (at)
		step->library[at] = '\0';
}

/* How many ranks this process's world should have; 0: nothing is expected, by nobody's word. */
static void expect(struct step *ret)
{
	const char *space = variable("PMIX_NAMESPACE"), *of_mpirun = variable("OMPI_COMM_WORLD_SIZE");
	const char *size = variable("PMI_SIZE");

	ret->tasks = ret->node = 0;
	ret->library[0] = '\0';
	ret->refuses = 0;
	if (system_read_file(PLACE "step", ret->text, sizeof(ret->text)) <= 0)
		return;
	for (const char *at = ret->text; *at; at++)
		if (at == ret->text || at[-1] == '\n')
			take_line(ret, at);
	ret->started = variable("SLURM_MPI_TYPE");
	ret->has_pmi = space || variable("PMI_FD") || variable("PMI_RANK");
	/* Another launcher inside the step (mpirun), MPI_Comm_spawn, a heterogeneous step: their worlds have other sizes. */
	if (of_mpirun)
		ret->tasks = number(of_mpirun);
	else if (size && !space)
		ret->tasks = number(size);
	if (variable("PMI_SPAWNED") || variable("SLURM_HET_SIZE") || (space && !text_begins(space, "slurm.pmix.")))
		ret->tasks = 0;
	if (of_mpirun || variable("HYDI_CONTROL_FD") || !ret->tasks)
		ret->refuses = 0;
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

/* One process of the node speaks, of the first node at once. */
static _Noreturn void fail(const struct step *step, struct line *line)
{
	if (system_create(PLACE "said") >= 0) {
		if (step->node > 0)
			system_sleep_ms(1000);
		line->text[line->used++] = '\n';
		system_call(SYS_write, 2, (long)line->text, (long)line->used, 0);
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

static void check(const struct step *step, const void *caller)
{
	struct object library = { .soname = "" };
	struct line line = { .used = 0 };
	enum family family;
	void *comm_size;
	long size;

	if (!step->tasks || __atomic_exchange_n(&checked, 1, __ATOMIC_ACQ_REL))
		return;
	if (*step->library)
		object_each("PMPI_Init", is_foreign, (void *)step);
	comm_size = object_next("PMPI_Comm_size", caller, &library);
	family = comm_size ? family_of(&library) : UNKNOWN;
	size = family == UNKNOWN ? 0 : world_size(&library, family, comm_size);
	if (!size || size == step->tasks)
		return;
	add(&line, "fairlead: error [mpi]: ");
	add_number(&line, step->tasks);
	add(&line, " ranks were started, but MPI made worlds of ");
	add_number(&line, size);
	add(&line, ": ");
	why_split(&line, step, family);
	if (size == 1) { /* alone, so that nobody is waited for; it removes the files of this world */
		int (*finalize)(void) = (int (*)(void))object_symbol(&library, "PMPI_Finalize");

		if (finalize)
			finalize();
	}
	fail(step, &line);
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
		expect(&step);                                                                    \
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
		expect(&step);                                                                              \
		refuse(&step, #name, caller);                                                               \
		result = ((int (*)(int *, char ***, int, int *))next(#name, caller))(argc, argv, required,   \
										     provided);             \
		if (!result)                                                                                \
			check(&step, caller);                                                               \
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
		expect(&step);                                                      \
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
		expect(&step);                                                                     \
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
INIT_FORTRAN(mpi_init_)
INIT_FORTRAN(pmpi_init_)
INIT_THREAD_FORTRAN(mpi_init_thread_)
INIT_THREAD_FORTRAN(pmpi_init_thread_)
