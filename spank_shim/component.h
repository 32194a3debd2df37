/* SPDX-License-Identifier: Apache-2.0
 *
 * The components of a heterogeneous step (srun A : B). They have one srun, which has one environment, and are a step of
 * its own each to slurmstepd. So the choices of each are set aside under its number,
 *
 *   SLURM_FAIRLEAD_1_REF
 *
 * and a component learns its number through the one thing by which srun keeps environments apart, which is the value of
 * --export: that may set a variable, and before all others it sets SLURM_FAIRLEAD_COMPONENT=1. slurmstepd's side makes
 * the choices of that number the step's own before anybody reads them. */
#ifndef FAIRLEAD_COMPONENT_H
#define FAIRLEAD_COMPONENT_H

#include <slurm/spank.h>
#include <stdint.h>

/* srun, first of all: forget the components of the step around this one, and remember what all of its own inherit. */
void component_begin(void);

/* srun: whether the step has components, of which each gets a copy of srun's options after client_settle(). One of a
 * single group is one, too: the allocation has others. */
int component_is_one(void);

/* srun: the environment's choices become those of this component, and the next one starts from what was inherited.
 * contained: it is to run in a container; silent: nothing says whether. Returns what is wrong, or NULL. */
const char *component_settle(int contained, int silent);

/* srun: whether any of the components runs in a container. */
int component_some_contained(void);

/* slurmstepd, as soon as there is an environment. */
void component_take(spank_t spank);

/* slurmstepd: the tasks of all components of a step together, which are one MPI world; own: of this one. */
uint32_t component_tasks(spank_t spank, uint32_t own);

/* slurmstepd: open the command of a component that its own word left on the host, if it was srun's choice to seal. */
void component_open_seal(spank_t spank);

/* slurmstepd: whether the step has components and it cannot be told which one this is. */
int component_is_lost(void);

#endif
