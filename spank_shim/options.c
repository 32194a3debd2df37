/* SPDX-License-Identifier: Apache-2.0 */
#include "options.h"

#include <stdio.h>
#include <string.h>

#include "slurm_api.h"

struct options options = { .entrypoint = -1 };

/* Callbacks only remember: they may be called twice and must not fail inside slurmstepd; the client speaks later. */
static void keep(char *ret, size_t size, const char *option, const char *value)
{
	if (!value || !*value)
		snprintf(options.error, sizeof(options.error), "error [usage]: --%s: no value (see srun --help)", option);
	else if (strlen(value) >= size)
		snprintf(options.error, sizeof(options.error), "error [usage]: --%s: value too long", option);
	else
		snprintf(ret, size, "%s", value);
}

static int on_reference(int val, const char *value, int remote)
{
	(void)val, (void)remote;
	keep(options.reference, sizeof(options.reference), "container", value);
	return 0;
}

static int on_mpi(int val, const char *value, int remote)
{
	(void)val, (void)remote;
	keep(options.mpi, sizeof(options.mpi), "container-mpi", value);
	if (strcmp(options.mpi, "auto") && strcmp(options.mpi, "host") && strcmp(options.mpi, "image"))
		snprintf(options.error, sizeof(options.error),
			 "error [usage]: --container-mpi=%.64s: not one of auto, host, image", value ? value : "");
	return 0;
}

static int on_workdir(int val, const char *value, int remote)
{
	(void)val, (void)remote;
	keep(options.workdir, sizeof(options.workdir), "container-workdir", value);
	return 0;
}

static int on_entrypoint(int val, const char *value, int remote)
{
	(void)value, (void)remote;
	options.entrypoint = val;
	return 0;
}

static int on_batch(int val, const char *value, int remote)
{
	(void)val, (void)value, (void)remote;
	options.batch = 1;
	return 0;
}

static struct spank_option container = {
	(char *)"container", (char *)"REF",
	(char *)"[fairlead] run in the OCI image REF: [REGISTRY/]NAME[:TAG][@DIGEST]; none: on the host",
	1, 0, on_reference
};

static struct spank_option table[] = {
	{ (char *)"container-mpi", (char *)"auto|host|image",
	  (char *)"[fairlead] with --container: whose MPI library runs; auto (default) takes the host's where it is "
		  "proven to fit, else the image's",
	  1, 0, on_mpi },
	{ (char *)"container-workdir", (char *)"DIR",
	  (char *)"[fairlead] with --container: working directory inside; default: the image's, else the job's", 1, 0,
	  on_workdir },
	{ (char *)"container-entrypoint", NULL,
	  (char *)"[fairlead] with --container: run the image's entrypoint before the command", 0, 1, on_entrypoint },
	{ (char *)"no-container-entrypoint", NULL,
	  (char *)"[fairlead] with --container: do not run the image's entrypoint (default)", 0, 0, on_entrypoint },
	{ (char *)"container-batch", NULL,
	  (char *)"[fairlead] sbatch --container: run the batch script itself inside; default: on the host, where "
		  "its sruns inherit the container",
	  0, 1, on_batch },
};

int options_register(spank_t spank)
{
	if (!slurm_api_owns_container() && spank_option_register(spank, &container) != ESPANK_SUCCESS)
		return -1;
	for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++)
		if (spank_option_register(spank, &table[i]) != ESPANK_SUCCESS)
			return -1;
	return 0;
}
