/* SPDX-License-Identifier: Apache-2.0 */
#include "step.h"

#include "object.h"
#include "system.h"

extern char **environ __attribute__((weak));

static const char *variable(char *const *from, const char *name)
{
	size_t length = 0;

	while (name[length])
		length++;
	for (char *const *at = from; at && *at; at++)
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

static void take_text(char *ret, size_t size, const char *text)
{
	size_t at = 0;

	for (; *text && *text != '\n' && at < size - 1; text++)
		ret[at++] = *text;
	ret[at] = '\0';
}

static void take_line(struct step *step, const char *text)
{
	if (text_begins(text, "tasks "))
		step->tasks = number(text + 6);
	else if (text_begins(text, "node "))
		step->node = number(text + 5);
	else if (text_begins(text, "refuse "))
		step->refuses = 1;
	else if (text_begins(text, "library "))
		take_text(step->library, sizeof(step->library), text + 8);
	else if (text_begins(text, "end "))
		take_text(step->end, sizeof(step->end), text + 4);
}

void step_expect(struct step *ret, char *const *from)
{
	const char *space, *of_mpirun, *size;

	if (!from)
		from = environ;
	ret->tasks = ret->node = 0;
	ret->library[0] = ret->end[0] = '\0';
	ret->refuses = 0;
	if (system_read_file(PLACE "step", ret->text, sizeof(ret->text)) <= 0)
		return;
	for (const char *at = ret->text; *at; at++)
		if (at == ret->text || at[-1] == '\n')
			take_line(ret, at);
	space = variable(from, "PMIX_NAMESPACE");
	of_mpirun = variable(from, "OMPI_COMM_WORLD_SIZE");
	size = variable(from, "PMI_SIZE");
	ret->started = variable(from, "SLURM_MPI_TYPE");
	ret->has_pmi = space || variable(from, "PMI_FD") || variable(from, "PMI_RANK");
	/* Another launcher inside the step (mpirun), MPI_Comm_spawn, a heterogeneous step: their worlds have other sizes. */
	if (of_mpirun)
		ret->tasks = number(of_mpirun);
	else if (size && !space)
		ret->tasks = number(size);
	if (variable(from, "PMI_SPAWNED") || variable(from, "SLURM_HET_SIZE") || (space && !text_begins(space, "slurm.pmix.")))
		ret->tasks = 0;
	if (of_mpirun || variable(from, "HYDI_CONTROL_FD") || !ret->tasks)
		ret->refuses = 0;
}
