/* SPDX-License-Identifier: Apache-2.0
 *
 * What a process that was killed left in a store: its staging directory below tmp (store/layout.py). The kernel has dropped
 * the flock on it, and a stage of this boot whose flock is free is nobody's. For processes that must not become Python: a
 * child of slurmstepd, a child of the broker; both have become the store's owner first. */
#ifndef FAIRLEAD_STAGES_H
#define FAIRLEAD_STAGES_H

/* Remove the stages of the dead from a store, a directory's descriptor. How many somebody works in, or -errno. */
int stages_sweep(int store);

#endif
