/* SPDX-License-Identifier: Apache-2.0 */
#include "precheck.h"

#include "old_headers.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine.h"
#include "options.h"

#define REFUSED 125

/* The facts as a memory file, so that nobody waits for a reader. */
static int facts_file(void)
{
	int fd = memfd_create("fairlead-options", MFD_CLOEXEC);
	char *text = NULL;
	size_t size = 0;
	FILE *out = fd < 0 ? NULL : open_memstream(&text, &size);
	int fine = out != NULL;

	if (fine) {
		options_facts(out, environ);
		fine = fclose(out) == 0 && write(fd, text, size) == (ssize_t)size && lseek(fd, 0, SEEK_SET) == 0;
	}
	free(text);
	if (!fine && fd >= 0)
		close(fd);
	return fine ? fd : -1;
}

/* srun has threads on some releases: system calls only. */
static _Noreturn void become_check(const char *python, const char *script, const char **environment, int facts, int answer)
{
	const char *argv[] = { python, "-I", "-S", script, "check", NULL };
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(facts, 0) < 0 || dup2(answer, 1) < 0 || syscall(SYS_close_range, 3, ~0U, 0) < 0)
		_exit(126);
	execve(python, (char *const *)argv, (char *const *)environment);
	_exit(126);
}

int precheck_refuses(const char *prefix, char *ret_line, size_t size)
{
	const char *environment[ENGINE_MAX_ENVIRONMENT];
	char python[OPTION_MAX + 64], script[OPTION_MAX + 64];
	int facts = facts_file(), pair[2], status = 0;
	size_t used = 0;
	ssize_t n;
	pid_t child;

	snprintf(python, sizeof(python), "%s/venv/bin/python", prefix);
	snprintf(script, sizeof(script), "%s/libexec/fairlead/engine.py", prefix);
	engine_environment(environ, environment);
	if (facts < 0 || pipe2(pair, O_CLOEXEC) < 0) {
		if (facts >= 0)
			close(facts);
		return 0;
	}
	child = fork();
	if (child == 0)
		become_check(python, script, environment, facts, pair[1]);
	close(facts);
	close(pair[1]);
	while (child > 0 && used + 1 < size) {
		n = read(pair[0], ret_line + used, size - used - 1);
		if (n <= 0 && !(n < 0 && errno == EINTR))
			break;
		used += n > 0 ? (size_t)n : 0;
	}
	close(pair[0]);
	ret_line[used] = '\0';
	while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return child > 0 && used && WIFEXITED(status) && WEXITSTATUS(status) == REFUSED;
}
