/* SPDX-License-Identifier: Apache-2.0
 *
 * How --container is owned although Slurm has an option of that name since 21.08 (slurm.md section 1): Slurm parses
 * and keeps it; before the launch message goes out it is reset, so that slurmstepd finds no container of its own
 * (which would run uncontained without an oci.conf, and break PMIx). */
#include "client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arguments.h"
#include "component.h"
#include "gate.h"
#include "hub_start.h"
#include "options.h"
#include "report.h"
#include "seal.h"
#include "slurm_api.h"
#include "submit.h"

static char *inherited;   /* SLURM_CONTAINER as the client found it: from the job around it */
static char *exported;    /* SLURM_CONTAINER as the component before left it (sbatch, salloc) */
static char *first_choice; /* of the first component of a heterogeneous job */
static int components;
static int apart; /* srun's step has components, each with choices of its own */
static int given; /* the container was named for this command, not inherited */
static const char *style; /* whose meaning its options have; NULL: our own */

static void say(const char *line)
{
	char copy[1024];

	snprintf(copy, sizeof(copy), "%s", line);
	slurm_spank_log("fairlead: %s", report_printable(copy));
}

static _Noreturn void refuse(const char *line)
{
	say(line);
	exit(125);
}

static void export(const char *name, const char *value)
{
	if (value && *value)
		setenv(name, value, 1);
	else
		unsetenv(name);
}

static void open_environment(void)
{
	const char *value = getenv(SEAL_VARIABLE), *saved = getenv(SEAL_VARIABLE_SAVED);

	if (value && strcmp(value, SEAL_VALUE) == 0) {
		export(SEAL_VARIABLE, saved);
		unsetenv(SEAL_VARIABLE_SAVED);
	}
}

static void seal_environment(void)
{
	const char *value = getenv(SEAL_VARIABLE);

	if (value && strcmp(value, SEAL_VALUE) == 0)
		return; /* by the first component of a heterogeneous job */
	export(SEAL_VARIABLE_SAVED, value);
	setenv(SEAL_VARIABLE, SEAL_VALUE, 1);
}

/* Slurm would call the options' callbacks for what the job around this one was given, and then for what this command is:
 * that would look like an option given twice. All of it is inherited in variables of our own. */
static void forget_replayed_options(void)
{
	static const char *const prefixes[] = { "SLURM_SPANK__SLURM_SPANK_OPTION_fairlead_",
						"_SLURM_SPANK_OPTION_fairlead_" };
	char name[256];

	for (char **at = environ; at && *at;) {
		int ours = 0;

		for (size_t i = 0; i < sizeof(prefixes) / sizeof(*prefixes); i++)
			ours |= strncmp(*at, prefixes[i], strlen(prefixes[i])) == 0;
		snprintf(name, sizeof(name), "%.*s", (int)strcspn(*at, "="), *at);
		if (!ours || unsetenv(name) < 0 || getenv(name))
			at++;
		else
			at = environ; /* the array has changed */
	}
}

static int with_pyxis_names(void)
{
	return arguments.pyxis_compat && (spank_context() == S_CTX_LOCAL || arguments.sbatch_support);
}

int client_init(spank_t spank, int argc, char *argv[])
{
	const char *value = getenv("SLURM_CONTAINER");

	arguments_read(argc, argv);
	open_environment();
	forget_replayed_options();
	component_begin();

	/* Slurm sets it only if it is unset: a stale value would name the outer job's container in the tasks. */
	inherited = value ? strdup(value) : NULL;
	unsetenv("SLURM_CONTAINER");
	unsetenv(VARIABLE_HUB); /* of another step */
	return options_register(spank, with_pyxis_names()) < 0 ? -1 : 0;
}

static int has_control_character(const char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == 0x7f)
			return 1;
	return 0;
}

static const char *own_variable(void)
{
	if (spank_context() == S_CTX_LOCAL)
		return "SRUN_CONTAINER";
	return strcmp(program_invocation_short_name, "salloc") == 0 ? "SALLOC_CONTAINER" : "SBATCH_CONTAINER";
}

/* --container, by whichever door Slurm lets it in; NULL: it was not given. */
static const char *container_option(void)
{
	const char *value = slurm_api_option("container");

	if (!value)
		value = options_given("container"); /* before 21.08 */
	if (!value && !slurm_api_owns_container())
		value = getenv(own_variable()); /* Slurm reads these itself since it has the option */
	return value ? value : getenv("SLURM_CONTAINER"); /* set by Slurm since client_init: explicit, too */
}

/* An environment file in the place of an image. */
static const char *of_file(const char *name)
{
	static char reference[OPTION_MAX + 8]; /* one that is too long is refused later, not cut */

	snprintf(reference, sizeof(reference), "edf:%s", name);
	return reference;
}

/* What this command says itself, by the option of whichever name; NULL: nothing. Sets the style that goes with it. */
static const char *own_reference(void)
{
	const char *image = options_given("image"), *value = container_option(), *variable = getenv(own_variable());
	const char *file = options_given("environment");

	if (value && !*value)
		refuse("error [reference]: --container: empty, as from an unset variable (write none to run on the host)");
	/* Slurm hands over its variable as if it were the option; what was typed beats it. */
	if ((image || file) && value && variable && strcmp(value, variable) == 0)
		value = NULL;
	if (image && value)
		refuse("error [usage]: --container-image: given together with --container (give one)");
	style = image || file ? STYLE_PYXIS : NULL;
	if (file || image || value)
		unsetenv(VARIABLE_ENVIRONMENT_DIGEST); /* of the job around this command */
	if (file && (image || value))
		setenv(VARIABLE_ENVIRONMENT, file, 1);
	else if (file || image || value)
		unsetenv(VARIABLE_ENVIRONMENT); /* of the job around this command */
	if (file && !image && !value)
		return of_file(file);
	return image ? image : value;
}

/* A name alone means the container that has it: what it was made from, the node knows (run/named.py). */
static const char *kept_reference(void)
{
	static char reference[OPTION_MAX];
	const char *name = options_given("name");

	if (!name)
		return NULL;
	if ((size_t)snprintf(reference, sizeof(reference), "container-name:%s", name) >= sizeof(reference) ||
	    has_control_character(reference))
		refuse("error [usage]: --container-name: too long, or holds a control character (choose another)");
	style = STYLE_PYXIS;
	return reference;
}

static const char *settle_reference(int *ret_silent)
{
	const char *reference = own_reference();

	*ret_silent = !reference && !(inherited && *inherited);

	given = reference && strcmp(reference, "none") != 0;
	if (!reference && inherited && *inherited) {
		reference = inherited;
		style = getenv(VARIABLE_STYLE);
	}
	if (!reference && with_pyxis_names()) {
		reference = options_default("image");
		style = reference ? STYLE_PYXIS : NULL;
		given = reference != NULL;
	}
	if (!reference)
		return kept_reference();
	if (!*reference || strcmp(reference, "none") == 0)
		return NULL;
	if (strlen(reference) >= OPTION_MAX || has_control_character(reference))
		refuse("error [reference]: --container: too long, or holds a control character "
		       "(write it as [REGISTRY/]NAME[:TAG][@sha256:...] or as a path)");
	return reference;
}

/* sbatch and salloc have one environment for all components. */
static void check_same(const char *reference)
{
	if (components++ == 0)
		first_choice = reference ? strdup(reference) : NULL;
	else if ((!reference) != (!first_choice) || (reference && strcmp(reference, first_choice) != 0))
		refuse("error [usage]: the components of a heterogeneous job must name the same container "
		       "(give each component of its sruns its own)");
}

/* Options under which the container's choice or the command's seal would be lost on the way. */
static void refuse_conflicts(void)
{
	if (spank_context() == S_CTX_LOCAL && slurm_api_is_set("bcast"))
		refuse("error [usage]: --bcast together with --container (the image brings the program; drop --bcast)");
	if (spank_context() == S_CTX_ALLOCATOR && slurm_api_is_set("export-file"))
		refuse("error [usage]: --export-file drops the container's variables (use --export)");
}

static void ignore(const char *name)
{
	char line[160];

	snprintf(line, sizeof(line), "ignoring --%.64s: no image is named (--container-image or --container)", name);
	say(line);
}

/* The reference as it is from now on: with the digest that its tag has, so that every node, every task of an array and
 * every step inside runs the same image. An environment file is from now on where it was found. */
static const char *settled(const char *reference)
{
	static char text[SUBMIT_MAX];
	char *file, *digest;

	switch (submit_settle(arguments.prefix, reference, inherited, text)) {
	case SUBMIT_REFUSED:
		refuse(text);
	case SUBMIT_NO_ENGINE:
		say("each node looks up what the tag means: no engine answers on this host");
		return reference;
	case SUBMIT_FINE:
		break;
	}
	file = strchr(text, '\n');
	digest = file ? strchr(file + 1, '\n') : NULL;
	if (!*text || (file && !digest))
		return reference;
	if (file) {
		*file = *digest = '\0';
		export(VARIABLE_ENVIRONMENT, file + 1);
		export(VARIABLE_ENVIRONMENT_DIGEST, digest + 1);
	}
	return text;
}

static void export_options(const char *reference, int is_srun)
{
	/* sbatch runs the script in an image that was named as for pyxis, which knows no other way. */
	int inside = !is_srun && given && style && strcmp(program_invocation_short_name, "salloc") != 0;
	const char *batch = options_given("batch"), *problem, *directory;

	export(VARIABLE_REFERENCE, reference);
	export(VARIABLE_STYLE, reference ? style : NULL);
	if (!is_srun)
		unsetenv(VARIABLE_BATCH);
	/* What the user's environment says goes with the job by itself; the batch step alone has no srun to read it. */
	problem = options_export(is_srun || inside || batch);
	problem = problem ? problem : hub_report_problem();
	if (problem)
		refuse(problem);
	if (inside)
		setenv(VARIABLE_BATCH, "1", 1);
	/* srun --chdir=DIR is meant for where the command runs, so it beats the image's WorkingDir. */
	directory = is_srun && !options_given("workdir") && slurm_api_given('D') ? slurm_api_option("chdir") : NULL;
	if (directory && *directory)
		setenv(VARIABLE_WORKDIR, directory, 1);
}

int client_settle(void)
{
	const char *reference, *workdir = options_given("workdir"), *problem;
	int is_srun = spank_context() == S_CTX_LOCAL, silent;

	if (options_error())
		refuse(options_error());
	/* What the component before this one exported is no choice of this one. */
	if (components && exported && getenv("SLURM_CONTAINER") && strcmp(getenv("SLURM_CONTAINER"), exported) == 0)
		unsetenv("SLURM_CONTAINER");
	reference = settle_reference(&silent);
	if (reference)
		refuse_conflicts();
	else
		options_without_container(ignore);
	if (workdir && workdir[0] != '/')
		refuse("error [workdir]: --container-workdir: not an absolute path (write it from /)");
	/* Out of reach of client_seal(), slurmstepd would find a container of its own: the label is given up here. */
	apart = is_srun && component_is_one();
	if (apart)
		slurm_api_option_reset("container");
	if (!is_srun)
		check_same(reference);
	export_options(reference, is_srun);
	if (reference) {
		reference = settled(reference);
		export(VARIABLE_REFERENCE, reference);
		if (!apart)
			slurm_api_option_set("container", reference);
	}
	if (is_srun) {
		/* The next component of a heterogeneous job must start clean; put back by client_seal(). */
		unsetenv("SLURM_CONTAINER");
		problem = apart ? component_settle(reference != NULL, silent) : NULL;
		if (problem)
			refuse(problem);
		return 0;
	}
	export("SLURM_CONTAINER", reference);
	exported = reference ? strdup(reference) : NULL;
	if (reference)
		seal_environment();
	/* The label is what squeue shows; with an oci.conf it would start a runtime on the batch step. */
	if (!reference || slurm_api_has_oci_conf(getenv("SLURM_CONF")))
		slurm_api_option_reset("container");
	return 0;
}

static int replace(char **word, char *text)
{
	if (!text) {
		say("error [internal]: out of memory");
		return -1;
	}
	*word = slurm_api_strdup(text);
	free(text);
	return 0;
}

int client_seal(spank_t spank)
{
	const char *reference = apart ? NULL : getenv(VARIABLE_REFERENCE), *problem;
	char **argv = NULL;
	uint32_t step = 0;
	int argc = 0;

	/* The label stays in squeue and scontrol show step: the step was created with it. */
	slurm_api_option_reset("container");
	/* Of components srun shows the command of one only, whichever it starts first. */
	if (apart ? !component_some_contained() : !reference)
		return 0;
	if (reference)
		export("SLURM_CONTAINER", reference);
	/* salloc's own shell: on the host, like a batch script; the sruns typed there inherit the container. */
	if (spank_get_item(spank, S_JOB_STEPID, &step) == ESPANK_SUCCESS && step == STEP_INTERACTIVE) {
		if (given) {
			say("error [usage]: srun --interactive runs on the host (drop --interactive or --container)");
			return -1;
		}
		seal_environment();
		return 0;
	}
	/* Of a heterogeneous step only the last component would hear of it. */
	problem = apart ? NULL : hub_open(spank, arguments.prefix, reference);
	if (problem) {
		say(problem);
		return -1;
	}
	/* From here an error is returned, not exit()ed: srun has a step to abort, and threads. */
	if (spank_get_item(spank, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS || argc < 1 || !argv) {
		say("error [slurm]: srun does not show the command to the plugin (report the Slurm release)");
		return -1;
	}
	/* The array is the one that the launch message is made of; its strings may be replaced, not their number. */
	if (slurm_api_is_set("multi-prog") && argc >= 2)
		return replace(&argv[1], seal_programs(argv[1]));
	return replace(&argv[0], seal_command(argv[0]));
}
