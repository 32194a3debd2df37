/* SPDX-License-Identifier: Apache-2.0 */
#include "hand_over.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arguments.h"
#include "exec.h"
#include "namespace.h"
#include "refuse.h"
#include "slurm_api.h"

/* From here slurmstepd goes on with TaskProlog, on the host, and then executes fairlead-enter, which joins the
 * container and executes the application. Where the command cannot be replaced (--multi-prog before 23.02.5), the task
 * joins here, TaskProlog runs inside, and the sealed command finds fairlead-enter in the container. */
void hand_over(spank_t spank, const struct step_facts *facts, char **argv, int fds[CHANNEL_FDS])
{
	char helper[OPTION_MAX + 64], numbers[96];
	struct report report;
	int err;

	snprintf(helper, sizeof(helper), "%s/libexec/fairlead/fairlead-enter", arguments.prefix);
	if (access(helper, X_OK) < 0)
		refuse(125, "error [slurm]: %s: %s (check the installation on this node)", helper, strerror(errno));
	err = slurm_api_prepend(spank, helper);
	if (err == -EIO)
		refuse(125, "error [slurm]: slurmstepd refused to change the command");
	if (!err)
		spank_unsetenv(spank, "_FAIRLEAD_COMMAND"); /* a user's; fairlead-enter would take it for ours */
	if (err == -ENOSYS && !facts->multi_prog) {
		if (spank_setenv(spank, "_FAIRLEAD_COMMAND", facts->command, 1) != ESPANK_SUCCESS)
			refuse(125, "error [slurm]: cannot set the task's environment");
		argv[0] = strdup(helper);
	}
	if (err == -ENOSYS && facts->multi_prog) {
		if (namespace_join(fds[CHANNEL_USERNS], fds[CHANNEL_MNTNS], &report) < 0 ||
		    namespace_join_further(fds, &report) < 0 || exec_drop_privileges(&report) < 0)
			refuse(125, "error [namespace]: cannot join the container: %s: %s", report.detail,
			       strerror(report.err));
		for (int i = 0; i < CHANNEL_FDS; i++)
			fds[i] = i == CHANNEL_BLOCK ? fds[i] : -1;
	}
	for (int i = 0; i < CHANNEL_FDS; i++)
		if (fds[i] >= 0 && fcntl(fds[i], F_SETFD, 0) < 0)
			refuse(125, "error [slurm]: descriptor: %s", strerror(errno));
	snprintf(numbers, sizeof(numbers), "%d:%d:%d:%d:%d:%d", fds[0], fds[1], fds[2], fds[3], fds[4], fds[5]);
	if (spank_setenv(spank, "_FAIRLEAD_ENTER", numbers, 1) != ESPANK_SUCCESS)
		refuse(125, "error [slurm]: cannot set the task's environment");
}
