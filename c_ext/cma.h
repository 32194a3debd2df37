/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAIRLEAD_CMA_H
#define FAIRLEAD_CMA_H

#define CMA_WITH_CONSENT 1

/* Whether two ranks of a node can read each other's memory (process_vm_readv), which MPI's shared-memory transports take
 * for large messages: two processes that join one new user and mount namespace as fairlead-enter joins a container's.
 * 0; CMA_WITH_CONSENT where the read one must allow it first (Yama); or the -errno of the read. Milliseconds. */
int cma_test(void);

#endif
