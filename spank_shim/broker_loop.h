/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAIRLEAD_BROKER_LOOP_H
#define FAIRLEAD_BROKER_LOOP_H

#include <stddef.h>

/* Bind a free loop device to the file behind fd; flags: LO_FLAGS_*, to which LO_FLAGS_AUTOCLEAR is added. A descriptor of
 * the device, read-only, and its path, or -errno. The device vanishes when nothing has it open or mounted, whatever
 * becomes of this process. */
int loop_attach(int fd, unsigned int flags, char *ret_path, size_t size);

#endif
