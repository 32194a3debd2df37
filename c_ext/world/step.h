/* SPDX-License-Identifier: Apache-2.0
 *
 * What a process of the step is told of it (plan/world.py), and what its environment says against that. */
#ifndef FAIRLEAD_WORLD_STEP_H
#define FAIRLEAD_WORLD_STEP_H

#ifndef PLACE /* tests have one of their own */
#define PLACE "/.fairlead/world/"
#endif

/* What is known before MPI_Init: afterwards MPI has set variables of its own. */
struct step {
	long tasks, node;
	char library[256], end[64];
	const char *started; /* SLURM_MPI_TYPE */
	int has_pmi;
	int refuses; /* some line of text does */
	char text[4096];
};

/* How many ranks this process's world should have; tasks 0: nothing is expected, by nobody's word.
 * from: the environment, NULL for the C library's (which may not be there yet when constructors run). */
void step_expect(struct step *ret, char *const *from);

#endif
