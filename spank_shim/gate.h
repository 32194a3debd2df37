/* SPDX-License-Identifier: Apache-2.0
 *
 * The node's side of the step's one exchange (engine/fairlead/run/hub.py has the table of messages): the task that builds
 * the container connects to the hub in srun, tells how it went, and waits for one word before any rank may run. */
#ifndef FAIRLEAD_GATE_H
#define FAIRLEAD_GATE_H

#include <stdint.h>
#include <time.h>

#define GATE_LINE_MAX 4096

/* Where the hub listens and what shows that a node belongs to the step: "PORT:COOKIE"; srun's side exports it. */
#define VARIABLE_HUB "SLURM_FAIRLEAD_HUB"

struct gate {
	int fd; /* -1: srun offers no hub, and nobody is waited for */
	struct timespec began;
};

struct gate_node {
	const char *host;  /* srun's address, as slurmstepd knows it */
	const char *where; /* the variable's value */
	uint32_t index;	   /* of this node in the step */
	const char *name;
	const char *nodes; /* the step's host list */
};

/* Connect and say hello. 0 or -errno. */
int gate_open(struct gate *ret_gate, const struct gate_node *node);

/* Tell how long a phase took that began at a time (CLOCK_MONOTONIC). Here and below nothing is told where there is no
 * hub, or it is gone: gate_wait() shows that. */
void gate_phase(int fd, const char *phase, const struct timespec *began);

/* The container stands; facts: what must be the same on all nodes. */
void gate_ready(const struct gate *gate, const char *facts);

/* It does not, with the ranks' status and the line for the user. */
void gate_failed(const struct gate *gate, int status, const char *line);

/* The step is being cancelled, in a signal's handler: there is nothing to say. */
void gate_left(int fd);

/* Wait for the hub's word: 0 go; above it, the status with which to end silently; -errno: the hub is gone. */
int gate_wait(const struct gate *gate);

#endif
