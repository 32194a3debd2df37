/* SPDX-License-Identifier: Apache-2.0
 *
 * fairlead-hosted: what stands in a container for each of Slurm's client programs. It becomes the host's program of the
 * name that it was called by, started by the host's loader with the host's libraries; so the image's C library, of
 * whatever kind and age, has no part in it. Linked statically.
 *
 * What it finds where, engine/fairlead/plan/clients.py says. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROOT "/.fairlead/slurm"
#define LIB(number) ROOT "/lib/" number

static const char libraries[] = LIB("0") ":" LIB("1") ":" LIB("2") ":" LIB("3") ":" LIB("4") ":" LIB("5") ":" LIB("6") ":" LIB("7");

/* Of this container: the loader would take libraries that they name for the host's, and a step that the program starts
 * gets those of its own container, or is on the host. */
static const char *const of_container[] = { "LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH", "LD_BIND_NOW", "LD_DEBUG",
					    "FAIRLEAD_CONTAINER", "FAIRLEAD_MPI_INJECTED" };

static void forget_container(void)
{
	for (size_t i = 0; i < sizeof(of_container) / sizeof(*of_container); i++)
		unsetenv(of_container[i]);
}

int main(int argc, char *argv[])
{
	static const char *const first[] = { ROOT "/loader", "--inhibit-cache", "--library-path", libraries };
	enum { FIRST = sizeof(first) / sizeof(*first) };
	const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL, *name = slash ? slash + 1 : argv[0];
	const char **words = calloc((size_t)argc + FIRST + 1, sizeof(*words));
	char program[512];

	if (!name || !words)
		return 125;
	snprintf(program, sizeof(program), "%s/bin/%s", ROOT, name);
	memcpy(words, first, sizeof(first));
	words[FIRST] = program;
	for (int i = 1; i < argc; i++)
		words[FIRST + i] = argv[i];
	if (strcmp(name, "salloc") == 0)
		unsetenv("LD_PRELOAD"); /* its shell runs here */
	else
		forget_container();
	execv(first[0], (char *const *)words);
	dprintf(STDERR_FILENO, "fairlead: error [slurm]: %s: cannot be started in this container: %m\n", name);
	return 126;
}
