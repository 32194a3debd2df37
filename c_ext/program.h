/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAIRLEAD_PROGRAM_H
#define FAIRLEAD_PROGRAM_H

/* Whether execve would accept a file, as far as its first page tells: 0; -ENOEXEC when it is neither a script nor a
 * program for this machine, or when its interpreter (#! or PT_INTERP) cannot be executed; or another -errno.
 * So that a bad command is one line for the step and not one per rank. The file is the image's: hostile, so every
 * offset is checked and nothing blocks. */
int program_check(const char *path);

#endif
