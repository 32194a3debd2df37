/* SPDX-License-Identifier: Apache-2.0
 *
 * The part of a cached plan's key that every door adds to its request: strings "name=value", each with its NUL.
 *   this boot, this host, this user with all groups, the installation that made the plan,
 *   and the environment that the engine itself reads (settings, credentials), not the job's.
 * What else a plan depends on is in its checks: a key must be known before anything is looked up. */
#ifndef FAIRLEAD_PLAN_KEY_H
#define FAIRLEAD_PLAN_KEY_H

#include <stdio.h>

/* Whether these variables let plans be kept: FAIRLEAD_PLAN_CACHE not off, FAIRLEAD_VERBOSE (whose lines a cached plan
 * would swallow) not set. */
int plan_key_wanted(char *const *environment);

/* Add the strings; prefix is the installation's. 0 or -errno; then no plan is to be cached. */
int plan_key_add(FILE *out, const char *prefix, char *const *environment);

#endif
