/* SPDX-License-Identifier: Apache-2.0
 *
 * An engine that is killed cannot remove what it was working on: the job's memory limit, the end of a step that is cancelled,
 * a time limit. slurmstepd outlives it. So each step has a note, a memory file, in which the engine writes its pid and which
 * store it works in, and which it empties when it has answered; what is in it at the step's end has been left by an engine
 * that was killed. slurmstepd's child then removes the stages of the dead from that store, as the user, before the step is
 * over. Where slurmstepd is what died, the task that waited for the engine does. */
#ifndef FAIRLEAD_LEFTOVERS_H
#define FAIRLEAD_LEFTOVERS_H

/* Begin a note, in slurmstepd before the tasks are forked, with the user's ids effective. */
void leftovers_begin(void);

/* The note for the engine, or -1. */
int leftovers_note(void);

/* In the task that waited for the engine, when that has gone. */
void leftovers_clear(void);

/* At the step's end, in slurmstepd as root. Waits, a bounded time: what runs on would keep the step's cgroup. */
void leftovers_sweep(void);

#endif
