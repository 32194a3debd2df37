/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAIRLEAD_BROKER_SERVICE_H
#define FAIRLEAD_BROKER_SERVICE_H

#include "broker_grant.h"

#include "broker.h"

enum { SERVICE_FD = 3, SERVICE_MAX_FDS = 1 + BROKER_MAX_LAYERS };

/* In a child of the broker: from root to the service account for good. Groups, gid and uid are set and checked;
 * no_new_privs; of the descriptors only fds stay, as SERVICE_FD and those that follow it, and /dev/null as 0 to 2; the
 * child dies with its parent. Ends the process with status 125 where any of this fails. */
void service_become(const struct site *site, const int *fds, unsigned int count, pid_t parent);

#endif
