/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAIRLEAD_EXEC_H
#define FAIRLEAD_EXEC_H

#include <stddef.h>

#include "report.h"

/* chdir to the working directory of the calling process's root and prove that it lies inside: a path such as
 * /proc/self/fd/7 may lead to a directory outside the root (runc CVE-2024-21626). */
int exec_workdir(const char *path, struct report *report);

/* Find a command the way execvp does; the result is absolute or relative to the working directory.
 * -ENOENT: nowhere; -EACCES: found, not executable. */
int exec_find(const char *command, const char *path_variable, char *ret_path, size_t size);

/* Prove the block's working directory and command (OP_WORKDIR, OP_COMMAND) in the current root. */
int exec_check(const void *block, size_t size, struct report *report);

/* Empty the capability sets that exec could refill and set no_new_privs, so that nothing inside can gain what the user
 * does not have. Needs the capabilities that unshare or setns gave. */
int exec_drop_privileges(struct report *report);

/* Apply the block's environment to the calling process; 0 or -errno. */
int exec_environment(const void *block, size_t size, struct report *report);

/* Give up every privilege and descriptor that the application must not have, apply the block's working directory and
 * environment, and execute argv (after the block's OP_ARGUMENTs). Returns only on failure. */
int exec_run(const void *block, size_t size, char *const argv[], struct report *report);

/* One line for a failure of exec_run(), without the program's name; returns the exit status (125, 126 or 127). */
int exec_describe(const struct report *report, char *ret_line, size_t size);

#endif
