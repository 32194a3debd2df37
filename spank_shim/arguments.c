/* SPDX-License-Identifier: Apache-2.0 */
#include "arguments.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <slurm/spank.h>

#ifndef FAIRLEAD_PREFIX
#define FAIRLEAD_PREFIX "/opt/fairlead"
#endif

#define GRACE_S 3600
#define UPPER_MAX "50%"

struct arguments arguments = { .prefix = FAIRLEAD_PREFIX, .upper_max = UPPER_MAX, .grace_s = GRACE_S, .pyxis_compat = 1,
			       .sbatch_support = 1, .scope = "global" };

static const struct {
	const char *word; /* with its = */
	int *place;
} switches[] = {
	{ "pyxis_compat=", &arguments.pyxis_compat },
	{ "sbatch_support=", &arguments.sbatch_support },
	{ "execute_entrypoint=", &arguments.execute_entrypoint },
};

static const struct {
	const char *word, *why;
} of_pyxis[] = {
	{ "runtime_path=", "nothing is kept while a container runs" },
	{ "use_enroot_load=", "images are fetched without enroot" },
	{ "importer=", "images are fetched by the engine" },
	{ "use_squashfuse=", "squashfs files are unpacked" },
};

static int boolean(const char *text)
{
	static const char *const yes[] = { "1", "true", "yes", "y" }, *const no[] = { "0", "false", "no", "n" };

	for (size_t i = 0; i < sizeof(yes) / sizeof(*yes); i++) {
		if (strcasecmp(text, yes[i]) == 0)
			return 1;
		if (strcasecmp(text, no[i]) == 0)
			return 0;
	}
	return -1;
}

/* Whether a word was one of the switches with a boolean. */
static int read_switch(const char *word, int set)
{
	for (size_t i = 0; i < sizeof(switches) / sizeof(*switches); i++) {
		size_t length = strlen(switches[i].word);
		int value = strncmp(word, switches[i].word, length) == 0 ? boolean(word + length) : -1;

		if (value >= 0 && set)
			*switches[i].place = value;
		if (value >= 0)
			return 1;
	}
	return 0;
}

static int is_scope(const char *word)
{
	return strcmp(word, "container_scope=global") == 0 || strcmp(word, "container_scope=job") == 0;
}

static int is_log(const char *word)
{
	return strcmp(word, "log=syslog") == 0 || (strncmp(word, "log=/", 5) == 0 && strlen(word) < sizeof(arguments.log));
}

void arguments_read(int argc, char *argv[])
{
	char *end;

	for (int i = 0; i < argc; i++) {
		read_switch(argv[i], 1);
		if (is_scope(argv[i]))
			snprintf(arguments.scope, sizeof(arguments.scope), "%s", strchr(argv[i], '=') + 1);
		if (strncmp(argv[i], "prefix=/", 8) == 0)
			snprintf(arguments.prefix, sizeof(arguments.prefix), "%s", argv[i] + 7);
		if (strncmp(argv[i], "site=/", 6) == 0)
			snprintf(arguments.site, sizeof(arguments.site), "%s", argv[i] + 5);
		if (is_log(argv[i]))
			snprintf(arguments.log, sizeof(arguments.log), "%s", argv[i] + 4);
		if (strncmp(argv[i], "upper_max=", 10) == 0)
			snprintf(arguments.upper_max, sizeof(arguments.upper_max), "%s", argv[i] + 10);
		if (strncmp(argv[i], "grace=", 6) == 0 && argv[i][6]) {
			unsigned long seconds = strtoul(argv[i] + 6, &end, 10);

			if (!*end && seconds <= 366ul * 86400)
				arguments.grace_s = (unsigned int)seconds;
		}
	}
}

void arguments_explain(int argc, char *argv[])
{
	static const char *const own[] = { "prefix=/", "site=/", "upper_max=", "grace=" };

	for (int i = 0; i < argc; i++) {
		const char *why = read_switch(argv[i], 0) || is_scope(argv[i]) || is_log(argv[i]) ? NULL : "not understood";

		for (size_t k = 0; k < sizeof(own) / sizeof(*own); k++)
			if (strncmp(argv[i], own[k], strlen(own[k])) == 0)
				why = NULL;
		for (size_t k = 0; k < sizeof(of_pyxis) / sizeof(*of_pyxis); k++)
			if (strncmp(argv[i], of_pyxis[k].word, strlen(of_pyxis[k].word)) == 0)
				why = of_pyxis[k].why;
		if (why)
			slurm_info("fairlead: plugstack argument %.128s has no effect: %s", argv[i], why);
	}
}
