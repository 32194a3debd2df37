/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAIRLEAD_NAMESPACE_H
#define FAIRLEAD_NAMESPACE_H

#include <sys/types.h>

#include "channel.h"
#include "report.h"

/* Have the calling process killed when its parent, which made it, ends. 0, or -ESRCH if it has ended already. */
int namespace_end_with(pid_t parent);

/* Move the calling process, whose other threads have ended or are about to (that is waited for), into a new user and
 * mount namespace in which it keeps its uid and gid (single-id maps, setgroups denied, supplementary groups kept) and no
 * mount propagates to the host. 0 or -errno with a report. */
int namespace_create(struct report *report);

/* The same with what the flags of a block's root ask for, ROOT_*: further namespaces, uid and gid 0 in the new one. */
int namespace_create_as(uint32_t flags, struct report *report);

/* Open what the calling process is in: user and mount namespace and, of the flags, the others; -1 in the other places.
 * 0 or -errno. */
int namespace_open(uint32_t flags, int ret_fds[CHANNEL_FDS]);

/* Join the further namespaces among a container's descriptors, once its user namespace was joined. */
int namespace_join_further(const int fds[CHANNEL_FDS], struct report *report);

/* Join the user and mount namespaces behind two descriptors. */
int namespace_join(int userns_fd, int mntns_fd, struct report *report);

/* Let what this process executes have (or, without lend, not have) the capabilities that it holds in its own user
 * namespace, which an ordinary user's program otherwise loses by execve; and let it gain nothing else. */
int namespace_lend_capabilities(int lend, struct report *report);

#endif
