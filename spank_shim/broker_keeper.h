/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAIRLEAD_BROKER_KEEPER_H
#define FAIRLEAD_BROKER_KEEPER_H

#include "broker_grant.h"

/* Start a storekeeper (PREFIX/libexec/fairlead/keeper.py) as the service account, with the store's path, the job's user
 * and its number as arguments and one end of a new connection as descriptor 3. Its pid, with the other end in
 * ret_socket; or -errno. */
int keeper_start(const struct site *site, const char *prefix, const char *store, int *ret_socket);

/* End it: TERM, then KILL two seconds later; returns when it is gone. */
void keeper_end(int pid);

#endif
