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

/* A request like a step's as a memory file, so that nobody waits for a reader. */
static int request_file(const char *around)
{
	int fd = memfd_create("fairlead-request", MFD_CLOEXEC);
	char *text = NULL;
	size_t size = 0;
	FILE *out = fd < 0 ? NULL : open_memstream(&text, &size);
	int fine = out != NULL;

	if (fine) {
		fprintf(out, "protocol=%s%c", ENGINE_PROTOCOL, 0);
		if (around && *around)
			fprintf(out, "around=%s%c", around, 0);
		options_facts(out, environ);
		fputc('\0', out);
		for (char **entry = environ; *entry; entry++)
			fwrite(*entry, 1, strlen(*entry) + 1, out);
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

static enum submit_answer ask(const char *prefix, const char *verb, const char *around, char ret_text[SUBMIT_MAX])
{
	const char *environment[ENGINE_MAX_ENVIRONMENT];
	char python[OPTION_MAX + 64], script[OPTION_MAX + 64];
	int request = request_file(around), pair[2], status = 126 << 8;
	struct sigaction plain = { .sa_handler = SIG_DFL }, before;
	size_t used = 0;
	ssize_t n;
	pid_t child;

	*ret_text = '\0';
	snprintf(python, sizeof(python), "%s/venv/bin/python", prefix);
	snprintf(script, sizeof(script), "%s/libexec/fairlead/engine.py", prefix);
	engine_environment(environ, environment);
	if (request < 0 || pipe2(pair, O_CLOEXEC) < 0) {
		if (request >= 0)
			close(request);
		return SUBMIT_NO_ENGINE;
	}
	sigaction(SIGCHLD, &plain, &before); /* ignored, by whoever started this command, nobody could be waited for */
	child = fork();
	if (child == 0)
		become_engine(python, script, verb, environment, (int[2]){ request, pair[1] });
	close(request);
	close(pair[1]);
	while (child > 0 && used + 1 < SUBMIT_MAX) {
		n = read(pair[0], ret_text + used, SUBMIT_MAX - used - 1);
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

static int has_value(const char *variable, const char *value)
{
	const char *found = getenv(variable);

	return found && strcmp(found, value) == 0;
}

/* As image/reference.py tells one. */
static int is_environment_file(const char *reference)
{
	size_t length = strlen(reference);

	return strncmp(reference, "edf:", 4) == 0 ||
	       (length > 5 && strcmp(reference + length - 5, ".toml") == 0 && !strpbrk(reference, ":#"));
}

/* Whether a registry may have to say which image a reference means now, or a file which reference; the engine, which
 * reads the settings, knows. */
static int is_open(const char *reference)
{
	if (has_value("FAIRLEAD_RESOLVE", "start") || getenv(VARIABLE_ENVIRONMENT_DIGEST))
		return 0; /* or it was read for the job around this command */
	return is_environment_file(reference) || getenv(VARIABLE_ENVIRONMENT) ||
	       (!strstr(reference, "@sha") && *reference != '/' && *reference != '.' &&
		strncmp(reference, "container-name:", 15) != 0 && !has_value("FAIRLEAD_PULL", "missing") &&
		!has_value("FAIRLEAD_PULL", "never"));
}

enum submit_answer submit_settle(const char *prefix, const char *reference, const char *around, char ret_text[SUBMIT_MAX])
{
	static char asked[OPTION_MAX], answer[SUBMIT_MAX]; /* of the component before, which must mean the same */
	int freeze = is_open(reference);
	enum submit_answer found;

	*ret_text = '\0';
	if (freeze && *answer && strcmp(asked, reference) == 0) {
		memcpy(ret_text, answer, SUBMIT_MAX);
		return SUBMIT_FINE;
	}
	if (!freeze && (getenv("SLURM_JOB_ID") || !options_want_check()))
		return SUBMIT_FINE;
	found = ask(prefix, freeze ? "freeze" : "check", around, ret_text);
	if (found == SUBMIT_NO_ENGINE && !freeze)
		return SUBMIT_FINE;
	if (found == SUBMIT_FINE && *ret_text) {
		snprintf(asked, sizeof(asked), "%s", reference);
		memcpy(answer, ret_text, SUBMIT_MAX);
	}
	return found;
}
