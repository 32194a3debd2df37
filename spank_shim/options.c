/* SPDX-License-Identifier: Apache-2.0 */
#include "options.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "plan_expand.h"
#include "slurm_api.h"

enum {
	PYXIS = 1 << 0,   /* a name that pyxis has, too: not registered where both are loaded */
	LIST = 1 << 1,    /* may be given several times, and adds to what the job around it chose: joined by commas */
	CHECKED = 1 << 2, /* its value has a grammar of its own, which the engine knows */
	APART = 1 << 3,   /* becomes no variable by itself (client.c) */
	ALONE = 1 << 4,   /* means something without a container, too */
	AGAIN = 1 << 5,   /* the last one counts, as of Slurm's own options; each component of a step may give one */
	OPTIONAL = 1 << 6, /* its argument may be left out, and is then the entry's value */
	SRUNS = 1 << 7,    /* srun's own business: no fact of the step */
};

struct entry {
	const char *name, *argument, *help; /* no name: a further variable with the default */
	const char *key;     /* of the fact; in upper case, of the variable */
	const char *value;   /* what an option without argument stands for */
	const char *fallback; /* the user's variable with the default; a boolean for an option without argument */
	const char *words;   /* the only values that there are */
	int flags;
};

#define WITH "[fairlead] with a container: "

static const struct entry table[] = {
	{ "container", "REF", "[fairlead] run in the OCI image REF: [REGISTRY/]NAME[:TAG][@DIGEST]; none: on the host",
	  "container", NULL, NULL, NULL, APART | ALONE | AGAIN },
	{ "container-image", "[USER@][REGISTRY#]IMAGE[:TAG]|PATH",
	  "[fairlead] run in this image, as under pyxis: a registry's, or a squashfs file when it begins with . or /",
	  "image", NULL, "PYXIS_CONTAINER_IMAGE", NULL, PYXIS | APART | ALONE | CHECKED },
	{ "environment", "NAME|PATH",
	  "[fairlead] run in what this environment file (EDF) describes: a name in EDF_PATH, or a path",
	  "environment", NULL, NULL, NULL, APART | ALONE },
	{ "edf", "NAME|PATH", "[fairlead] the same as --environment", "environment", NULL, NULL, NULL, APART | ALONE },
	{ "container-mounts", "SRC[:DST[:FLAGS]][,...]",
	  WITH "mount SRC of the host at DST; flags are joined by +, e.g. ro+noexec; tmpfs:DST; umount:DST", "mounts", NULL,
	  "PYXIS_CONTAINER_MOUNTS", NULL, PYXIS | LIST | CHECKED },
	{ "container-workdir", "DIR", WITH "working directory inside; default: the image's, else the job's", "workdir", NULL,
	  "PYXIS_CONTAINER_WORKDIR", NULL, PYXIS },
	{ NULL, "DIR", NULL, "workdir", NULL, "FAIRLEAD_WORKDIR", NULL, 0 },
	{ "container-name", "NAME[:auto|create|exec|no_exec]",
	  WITH "keep its root file system under this name, or join the container that runs under it", "name", NULL,
	  "PYXIS_CONTAINER_NAME", NULL, PYXIS | CHECKED | ALONE },
	{ "container-save", "PATH", WITH "write its root file system to a squashfs file at the end", "save", NULL,
	  "PYXIS_CONTAINER_SAVE", NULL, PYXIS | CHECKED },
	{ "container-mount-home", NULL, WITH "bind the home directory", "mount_home", "1", "PYXIS_CONTAINER_MOUNT_HOME", NULL,
	  PYXIS },
	{ "no-container-mount-home", NULL, WITH "do not bind the home directory", "mount_home", "0", NULL, NULL, PYXIS },
	{ "container-remap-root", NULL, WITH "be root inside, without any right that you do not have", "remap_root", "1",
	  "PYXIS_CONTAINER_REMAP_ROOT", NULL, PYXIS },
	{ "no-container-remap-root", NULL, WITH "be yourself inside (default)", "remap_root", "0", NULL, NULL, PYXIS },
	{ "container-entrypoint", NULL, WITH "run the image's entrypoint before the command", "entrypoint", "1",
	  "PYXIS_CONTAINER_ENTRYPOINT", NULL, PYXIS },
	{ "no-container-entrypoint", NULL, WITH "do not run the image's entrypoint (default)", "entrypoint", "0", NULL, NULL,
	  PYXIS },
	{ "container-entrypoint-log", NULL, WITH "show what the entrypoint prints (it always is)", "entrypoint_log", "1",
	  "PYXIS_CONTAINER_ENTRYPOINT_LOG", NULL, PYXIS },
	{ "container-writable", NULL, WITH "its root file system can be written to", "writable", "1",
	  "PYXIS_CONTAINER_WRITABLE", NULL, PYXIS },
	{ "container-readonly", NULL, WITH "its root file system can only be read", "writable", "0",
	  "PYXIS_CONTAINER_READONLY", NULL, PYXIS },
	{ "container-env", "NAME[,NAME...]", WITH "variables whose value of the host beats the image's", "env", NULL,
	  "PYXIS_CONTAINER_ENV", NULL, PYXIS | LIST | CHECKED },
	{ "container-unshare", "NS[,NS...]", WITH "give it namespaces of its own: net, ipc, uts", "unshare", NULL,
	  "PYXIS_CONTAINER_UNSHARE", NULL, PYXIS | LIST | CHECKED },
	{ "container-mpi", "auto|host|image",
	  WITH "whose MPI library runs; auto (default) takes the host's where it is proven to fit, else the image's", "mpi",
	  NULL, "FAIRLEAD_MPI", "auto, host, image", 0 },
	{ "container-device", "HOST[:CONTAINER][:rwm]|CDI[,...]",
	  WITH "give it a device of the host, by path or by CDI name (vendor.com/class=name)", "device", NULL, NULL, NULL,
	  LIST | CHECKED },
	{ "container-gpu", "auto|all|none", WITH "which GPUs it gets; auto (default): the job's", "gpu", NULL, "FAIRLEAD_GPU",
	  "auto, all, none", 0 },
	{ "container-annotation", "NAME=VALUE[,...]", WITH "say something by which the site's hooks may be chosen",
	  "annotation", NULL, NULL, NULL, LIST | CHECKED },
	{ "container-report", "json|FILE.json",
	  WITH "show how long which node took for what before its ranks ran; json: for programs, also to a file", "report",
	  "text", "FAIRLEAD_REPORT", NULL, OPTIONAL | SRUNS | AGAIN },
	{ "container-slurm", NULL, WITH "bring Slurm's client programs (srun, sbatch, squeue...)", "slurm_inside", "1", NULL,
	  NULL, 0 },
	{ "no-container-slurm", NULL, WITH "leave them out (default)", "slurm_inside", "0", NULL, NULL, 0 },
	{ "container-batch", NULL,
	  "[fairlead] sbatch: run the batch script itself inside; with --container it runs on the host by default, and its "
	  "sruns inherit the container", "batch", "1", NULL, NULL, 0 },
};

enum { COUNT = sizeof(table) / sizeof(*table) };

static char *chosen[COUNT]; /* by the command line; of options that share a key, at the first of them */
static const char *by[COUNT]; /* the option that chose it */
static char *inherited[COUNT]; /* what the job around this command chose */
static int pyxis_names;
static char problem[512];

static size_t first_of(const char *key)
{
	size_t i = 0;

	while (i < COUNT && strcmp(table[i].key, key) != 0)
		i++;
	return i;
}

static void variable_of(const char *key, char ret[64])
{
	size_t i = (size_t)snprintf(ret, 64, "%s%s", VARIABLE_PREFIX, key);

	for (i = strlen(VARIABLE_PREFIX); i < 64 && ret[i]; i++)
		ret[i] = (char)toupper((unsigned char)ret[i]);
}

/* What stands before a name: options are in lower case, variables in upper case. */
static const char *dashes(const char *name)
{
	return isupper((unsigned char)*name) ? "$" : "--";
}

static void object(const char *name, const char *to, const char *hint)
{
	if (!*problem)
		snprintf(problem, sizeof(problem), "error [usage]: %s%.64s: %s (%s)", dashes(name), name, to, hint);
}

/* Whether a value is among words like "auto, host, image". */
static int is_word(const char *words, const char *value)
{
	size_t length = strlen(value);

	for (const char *at = words; length && (at = strstr(at, value)); at += length)
		if ((at == words || at[-1] == ' ') && (at[length] == ',' || !at[length]))
			return 1;
	return 0;
}

static void check_value(const struct entry *entry, const char *name, const char *value)
{
	if (entry->words && !is_word(entry->words, value) && !*problem)
		snprintf(problem, sizeof(problem), "error [usage]: %s%s=%.64s: not one of %s", dashes(name), name, value,
			 entry->words);
	else if (!*value)
		object(name, "no value", "see srun --help");
	else if (strlen(value) > OPTION_MAX_VALUE)
		object(name, "longer than 98304 bytes", "name a directory above what it lists");
}

/* Callbacks only remember: they may be called twice and must not fail inside slurmstepd; the client speaks later. */
static void choose(const struct entry *entry, const char *value)
{
	size_t at = first_of(entry->key);
	char *before = chosen[at], *joined = NULL, text[160];

	check_value(entry, entry->name, value);
	if (before && strcmp(before, value) == 0)
		return;
	if (before && entry->flags & AGAIN) {
		free(before);
		before = chosen[at] = NULL;
	}
	if (before && !(entry->flags & LIST)) {
		if (strcmp(by[at], entry->name) == 0)
			snprintf(text, sizeof(text), "given twice, with different values");
		else
			snprintf(text, sizeof(text), "given together with --%s", by[at]);
		object(entry->name, text, "give one");
		return;
	}
	if (asprintf(&joined, "%s%s%s", before ? before : "", before ? "," : "", value) < 0)
		return;
	free(before);
	chosen[at] = joined;
	by[at] = entry->name;
	if (strlen(joined) > OPTION_MAX_VALUE)
		object(entry->name, "longer than 98304 bytes", "name a directory above what it lists");
}

/* Slurm hands over "(null)" in slurmstepd for an argument that was left out. */
static int takes(const struct entry *entry, const char *value)
{
	int left_out = !value || strcmp(value, "(null)") == 0;

	return entry->argument && !(entry->flags & OPTIONAL && left_out);
}

static int on_option(int number, const char *value, int remote)
{
	(void)remote;
	if (number >= 0 && number < COUNT)
		choose(&table[number], takes(&table[number], value) ? (value ? value : "") : table[number].value);
	return 0;
}

static void remember_inherited(void)
{
	const char *value;
	char name[64];

	for (size_t i = 0; i < COUNT; i++) {
		variable_of(table[i].key, name);
		value = getenv(name);
		inherited[i] = value && *value ? strdup(value) : NULL;
	}
}

int options_register(spank_t spank, int pyxis)
{
	static struct spank_option registered[COUNT];

	pyxis_names = pyxis;
	if (spank_context() != S_CTX_REMOTE)
		remember_inherited();
	for (int i = 0; i < COUNT; i++) {
		if (!table[i].name || (table[i].flags & PYXIS && !pyxis) ||
		    (strcmp(table[i].name, "container") == 0 && slurm_api_owns_container()))
			continue;
		registered[i] = (struct spank_option){ (char *)table[i].name, (char *)table[i].argument,
						       (char *)table[i].help,
						       table[i].flags & OPTIONAL ? 2 : table[i].argument != NULL, i, on_option };
		if (spank_option_register(spank, &registered[i]) != ESPANK_SUCCESS)
			return -1;
	}
	return 0;
}

const char *options_error(void)
{
	return *problem ? problem : NULL;
}

const char *options_given(const char *key)
{
	size_t at = first_of(key);

	return at < COUNT ? chosen[at] : NULL;
}

/* Booleans as pyxis reads them; another word is an error and not, as there, nothing. */
static const char *from_boolean(const struct entry *entry, const char *word)
{
	static const char *const yes[] = { "1", "true", "yes", "y" }, *const no[] = { "0", "false", "no", "n" };

	for (size_t i = 0; i < sizeof(yes) / sizeof(*yes); i++) {
		if (strcasecmp(word, yes[i]) == 0)
			return entry->value;
		if (strcasecmp(word, no[i]) == 0)
			return strcmp(entry->value, "1") == 0 ? "0" : "1";
	}
	object(entry->fallback, "neither true nor false", "write 1 or 0");
	return NULL;
}

const char *options_default(const char *key)
{
	const char *value, *found = NULL;

	for (size_t i = 0; i < COUNT; i++) {
		if (strcmp(table[i].key, key) != 0 || !table[i].fallback || (table[i].flags & PYXIS && !pyxis_names))
			continue;
		value = getenv(table[i].fallback);
		if (!value || !*value)
			continue;
		check_value(&table[i], table[i].fallback, value);
		if (!table[i].argument)
			value = from_boolean(&table[i], value);
		if (!table[i].argument && found && value && strcmp(found, value) != 0)
			object(table[i].fallback, "contradicts the variable of its opposite", "unset one");
		found = found ? found : value;
	}
	return found;
}

const char *options_export(int defaults)
{
	char name[64], *joined;

	for (size_t i = 0; i < COUNT; i++) {
		const char *value;

		if (table[i].flags & APART || first_of(table[i].key) != i)
			continue;
		variable_of(table[i].key, name);
		value = chosen[i];
		/* Nearer than the environment's default is what the job around this command chose. */
		if (!value && defaults && !inherited[i])
			value = options_default(table[i].key);
		if (value && inherited[i] && table[i].flags & LIST) {
			if (asprintf(&joined, "%s,%s", inherited[i], value) < 0)
				return "error [internal]: out of memory";
			check_value(&table[i], table[i].name, joined);
			setenv(name, joined, 1);
			free(joined);
		} else if (value) {
			setenv(name, value, 1);
		}
	}
	return options_error();
}

void options_without_container(void (*tell)(const char *name))
{
	for (size_t i = 0; i < COUNT; i++)
		if (chosen[i] && !(table[i].flags & ALONE))
			tell(by[i]);
}

int options_want_check(void)
{
	char name[64];

	for (size_t i = 0; i < COUNT; i++) {
		variable_of(table[i].key, name);
		if (table[i].flags & CHECKED && (chosen[i] || getenv(name) || options_default(table[i].key)))
			return 1;
	}
	return 0;
}

const char *options_value_in(char *const *environment, const char *name)
{
	return plan_variable(environment, name, strlen(name));
}

static void add_fact(FILE *out, char *const *environment, const char *key)
{
	const char *value;
	char name[64];

	variable_of(key, name);
	value = options_value_in(environment, name);
	if (value && *value)
		fprintf(out, "%s=%s%c", key, value, 0);
}

static void each_key(void (*visit)(const char *key, void *context), void *context)
{
	visit("ref", context);
	visit("style", context);
	visit("environment", context);
	visit("environment_digest", context);
	for (size_t i = 0; i < COUNT; i++)
		if (!(table[i].flags & (APART | SRUNS)) && first_of(table[i].key) == i)
			visit(table[i].key, context);
}

struct variable_visit {
	void (*visit)(const char *variable, void *context);
	void *context;
};

static void visit_variable(const char *key, void *context)
{
	const struct variable_visit *visit = context;
	char name[64];

	variable_of(key, name);
	visit->visit(name, visit->context);
}

void options_each_variable(void (*visit)(const char *variable, void *context), void *context)
{
	struct variable_visit outer = { visit, context };

	each_key(visit_variable, &outer);
}

void options_begin_again(void)
{
	for (size_t i = 0; i < COUNT; i++) {
		free(chosen[i]);
		chosen[i] = NULL;
		by[i] = NULL;
	}
}

struct facts {
	FILE *out;
	char *const *environment;
};

static void visit_fact(const char *key, void *context)
{
	const struct facts *facts = context;

	add_fact(facts->out, facts->environment, key);
}

void options_facts(FILE *out, char *const *environment)
{
	struct facts facts = { out, environment };

	each_key(visit_fact, &facts);
}
