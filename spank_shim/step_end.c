/* SPDX-License-Identifier: Apache-2.0 */
#include "step_end.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "slurm_api.h"

/* One node failed: the others would wait for its ranks in MPI_Init for ever. scancel, because libslurm's calls are not
 * safe in a process forked from a threaded one. */
void step_end(spank_t spank, uint32_t nodes, uint32_t job, uint32_t number)
{
	static const char *const places[] = { "/usr/bin/scancel", "/usr/local/bin/scancel", "/opt/slurm/bin/scancel" };
	char **environment = NULL, step[64];
	const char *argv[] = { "scancel", "--quiet", "--signal=TERM", step, NULL };
	pid_t child;

	if (nodes < 2 || number >= STEP_INTERACTIVE ||
	    spank_get_item(spank, S_JOB_ENV, &environment) != ESPANK_SUCCESS)
		return;
	snprintf(step, sizeof(step), "%u.%u", job, number);
	child = fork();
	/* Another node may have ended it before: scancel would add a line to the one that says what is wrong. */
	if (child == 0)
		dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
	for (size_t i = 0; child == 0 && i < sizeof(places) / sizeof(*places); i++)
		execve(places[i], (char *const *)argv, environment);
	if (child == 0)
		_exit(127);
	while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
}
