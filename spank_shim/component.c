/* SPDX-License-Identifier: Apache-2.0 */
#include "component.h"

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "options.h"
#include "seal.h"
#include "slurm_api.h"

#define VARIABLE_COMPONENT VARIABLE_PREFIX "COMPONENT"

enum { MAX_VARIABLES = 64, NAME_SIZE = 80 };

static struct {
	char name[NAME_SIZE];
	char *value; /* inherited by all components; NULL: none */
} before[MAX_VARIABLES];
static size_t count;
static unsigned int settled;
static int some_contained, some_silent, on_host, lost;

static void numbered(const char *variable, unsigned int number, char ret[NAME_SIZE])
{
	snprintf(ret, NAME_SIZE, "%s%u_%s", VARIABLE_PREFIX, number, variable + strlen(VARIABLE_PREFIX));
}

/* The length of the name, if an entry of an environment is one that was set aside; else 0. What has no value, or a name
 * longer than ours are, nobody here has set, and it could not be unset. */
static size_t is_numbered(const char *entry)
{
	size_t prefix = strlen(VARIABLE_PREFIX), length = strcspn(entry, "=");

	return strncmp(entry, VARIABLE_PREFIX, prefix) == 0 && isdigit((unsigned char)entry[prefix]) &&
	       entry[length] == '=' && length < NAME_SIZE ? length : 0;
}

static void set(const char *name, const char *value)
{
	if (value)
		setenv(name, value, 1);
	else
		unsetenv(name);
}

static void remember(const char *variable, void *context)
{
	const char *value = getenv(variable);

	(void)context;
	if (count == MAX_VARIABLES)
		return;
	snprintf(before[count].name, sizeof(before[count].name), "%s", variable);
	before[count++].value = value ? strdup(value) : NULL;
}

void component_begin(void)
{
	char name[NAME_SIZE];

	unsetenv(VARIABLE_COMPONENT);
	for (char **at = environ; at && *at;) {
		snprintf(name, sizeof(name), "%.*s", (int)is_numbered(*at), *at);
		if (!*name || unsetenv(name) < 0 || getenv(name))
			at++;
		else
			at = environ; /* the array has changed */
	}
	options_each_variable(remember, NULL);
}

/* Before what the user exports, so that --export=NONE does not end the list first; in the place of the component's
 * before this one, whose options srun hands on. */
static int tell_number(unsigned int number)
{
	static const char ours[] = VARIABLE_COMPONENT "=";
	const char *given = slurm_api_option("export");
	char *text;
	int err;

	if (given && strncmp(given, ours, strlen(ours)) == 0)
		given = strchr(given, ',') ? strchr(given, ',') + 1 : NULL;
	if (!given || !*given || strcmp(given, "unset") == 0)
		given = "ALL";
	if (asprintf(&text, "%s%u,%s", ours, number, given) < 0)
		return -1;
	err = slurm_api_option_set("export", text);
	free(text);
	return err;
}

int component_is_one(void)
{
	FILE *words = fopen("/proc/self/cmdline", "re");
	int found = settled > 0 || slurm_api_is_set("het-group");
	char *word = NULL;
	size_t size = 0;

	while (!found && words && getdelim(&word, &size, '\0', words) > 0)
		found = strcmp(word, ":") == 0;
	free(word);
	if (words)
		fclose(words);
	return found;
}

const char *component_settle(int contained, int silent)
{
	char name[NAME_SIZE];

	some_contained |= contained;
	some_silent |= silent && !contained;
	if (some_contained && some_silent)
		return "error [usage]: one component of the step names a container, another says nothing about it "
		       "(give --container to each; none means the host)";
	if (count == MAX_VARIABLES || tell_number(settled) < 0)
		return "error [slurm]: this srun keeps no variables apart for the components of a step (run separate sruns)";
	for (size_t i = 0; i < count; i++) {
		numbered(before[i].name, settled, name);
		set(name, getenv(before[i].name));
		set(before[i].name, before[i].value);
	}
	options_begin_again();
	settled++;
	return NULL;
}

int component_some_contained(void)
{
	return some_contained;
}

struct taking {
	spank_t spank;
	unsigned int number;
};

static char *job_value(spank_t spank, const char *name)
{
	char **environment = NULL;
	const char *value;

	if (spank_get_item(spank, S_JOB_ENV, &environment) != ESPANK_SUCCESS || !environment)
		return NULL;
	value = options_value_in(environment, name);
	return value && *value ? strdup(value) : NULL;
}

static void take(const char *variable, void *context)
{
	struct taking *taking = context;
	char name[NAME_SIZE], *value;

	numbered(variable, taking->number, name);
	value = job_value(taking->spank, name);
	if (value)
		spank_setenv(taking->spank, variable, value, 1);
	else
		spank_unsetenv(taking->spank, variable);
	free(value);
}

/* What other components chose is nothing to the programs of this one. */
static int forget_numbered(spank_t spank)
{
	char **environment = NULL, name[NAME_SIZE];
	int found = 0;

	if (spank_get_item(spank, S_JOB_ENV, &environment) != ESPANK_SUCCESS)
		return 0;
	for (size_t i = 0; environment && environment[i];) {
		snprintf(name, sizeof(name), "%.*s", (int)is_numbered(environment[i]), environment[i]);
		found |= *name != '\0';
		if (!*name || spank_unsetenv(spank, name) != ESPANK_SUCCESS ||
		    spank_get_item(spank, S_JOB_ENV, &environment) != ESPANK_SUCCESS || !environment || !environment[i] ||
		    (is_numbered(environment[i]) == strlen(name) && strncmp(environment[i], name, strlen(name)) == 0))
			i++; /* whatever the job's environment holds, this ends */
	}
	return found;
}

void component_take(spank_t spank)
{
	struct taking taking = { .spank = spank };
	char *number = job_value(spank, VARIABLE_COMPONENT), *reference;

	if (!number) {
		lost = forget_numbered(spank);
		return;
	}
	taking.number = (unsigned int)strtoul(number, NULL, 10);
	free(number);
	options_each_variable(take, &taking);
	forget_numbered(spank);
	spank_unsetenv(spank, VARIABLE_COMPONENT);
	reference = job_value(spank, VARIABLE_REFERENCE);
	if (reference)
		spank_setenv(spank, "SLURM_CONTAINER", reference, 1);
	else
		spank_unsetenv(spank, "SLURM_CONTAINER");
	on_host = !reference;
	free(reference);
}

uint32_t component_tasks(spank_t spank, uint32_t own)
{
	char *text = job_value(spank, "SLURM_STEP_NUM_TASKS");
	unsigned long all = text ? strtoul(text, NULL, 10) : 0;

	free(text);
	return all > own && all < UINT32_MAX ? (uint32_t)all : own;
}

void component_open_seal(spank_t spank)
{
	const char *opened;
	char **argv = NULL;
	int argc = 0;

	if (!on_host || spank_get_item(spank, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS || argc < 1 || !argv || !argv[0])
		return;
	opened = seal_open(argv[0]);
	if (opened)
		memmove(argv[0], opened, strlen(opened) + 1);
}

int component_is_lost(void)
{
	return lost;
}
