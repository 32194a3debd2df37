/* SPDX-License-Identifier: Apache-2.0 */
#include "submit.h"

#include "old_headers.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine.h"
#include "options.h"

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
static _Noreturn void become_engine(const char *python, const char *script, const char *verb, const char **environment,
				    const int fds[2])
{
	const char *argv[] = { python, "-I", "-S", script, verb, NULL };
	sigset_t none;

	prctl(PR_SET_PDEATHSIG, SIGKILL); /* nobody waits for the answer then */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(fds[0], 0) < 0 || dup2(fds[1], 1) < 0 || syscall(SYS_close_range, 3, ~0U, 0) < 0)
		_exit(126);
	execve(python, (char *const *)argv, (char *const *)environment);
	_exit(126);
}

static enum submit_answer meaning(int status, size_t size)
{
	if (!WIFEXITED(status) || WEXITSTATUS(status) == 126)
		return SUBMIT_NO_ENGINE;
	if (WEXITSTATUS(status) == 0)
		return SUBMIT_FINE;
	return size ? SUBMIT_REFUSED : SUBMIT_NO_ENGINE;
}

enum submit_answer submit_ask(const char *prefix, const char *verb, char *ret_text, size_t size)
{
	const char *environment[ENGINE_MAX_ENVIRONMENT];
	char python[OPTION_MAX + 64], script[OPTION_MAX + 64];
	int facts = facts_file(), pair[2], status = 126 << 8;
	struct sigaction plain = { .sa_handler = SIG_DFL }, before;
	size_t used = 0;
	ssize_t n;
	pid_t child;

	*ret_text = '\0';
	snprintf(python, sizeof(python), "%s/venv/bin/python", prefix);
	snprintf(script, sizeof(script), "%s/libexec/fairlead/engine.py", prefix);
	engine_environment(environ, environment);
	if (facts < 0 || pipe2(pair, O_CLOEXEC) < 0) {
		if (facts >= 0)
			close(facts);
		return SUBMIT_NO_ENGINE;
	}
	sigaction(SIGCHLD, &plain, &before); /* ignored, by whoever started this command, nobody could be waited for */
	child = fork();
	if (child == 0)
		become_engine(python, script, verb, environment, (int[2]){ facts, pair[1] });
	close(facts);
	close(pair[1]);
	while (child > 0 && used + 1 < size) {
		n = read(pair[0], ret_text + used, size - used - 1);
		if (n <= 0 && !(n < 0 && errno == EINTR))
			break;
		used += n > 0 ? (size_t)n : 0;
	}
	close(pair[0]);
	ret_text[used] = '\0';
	while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	sigaction(SIGCHLD, &before, NULL);
	return meaning(status, used);
}
