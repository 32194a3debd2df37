/* SPDX-License-Identifier: Apache-2.0
 *
 * The options that the shim adds to srun, sbatch and salloc, and the variables in which they travel.
 *
 * The client writes every choice into SLURM_FAIRLEAD_* variables of the job (the prefix survives --export=NONE and
 * inner sruns inherit it); slurmstepd's side reads nothing else and checks it again. */
#ifndef FAIRLEAD_OPTIONS_H
#define FAIRLEAD_OPTIONS_H

#include <slurm/spank.h>

#define OPTION_MAX 4096

#define VARIABLE_REFERENCE "SLURM_FAIRLEAD_REF"
#define VARIABLE_MPI "SLURM_FAIRLEAD_MPI"
#define VARIABLE_ENTRYPOINT "SLURM_FAIRLEAD_ENTRYPOINT"
#define VARIABLE_WORKDIR "SLURM_FAIRLEAD_WORKDIR"
#define VARIABLE_BATCH "SLURM_FAIRLEAD_BATCH"

struct options {
	char reference[OPTION_MAX]; /* before 21.08, where --container is ours */
	char mpi[16];
	char workdir[OPTION_MAX];
	int entrypoint; /* -1 not given, 0, 1 */
	int batch;      /* the batch script itself runs inside */
	char error[512];
};

/* What the command line said, filled by Slurm's calls to the callbacks. */
extern struct options options;

/* Register the options in this context. */
int options_register(spank_t spank);

#endif
