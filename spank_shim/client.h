/* SPDX-License-Identifier: Apache-2.0
 *
 * srun, sbatch and salloc: as the user, forgeable, so nothing here is protection except the seal on the command. */
#ifndef FAIRLEAD_CLIENT_H
#define FAIRLEAD_CLIENT_H

#include <slurm/spank.h>

/* Before Slurm parses its options. */
int client_init(spank_t spank, int argc, char *argv[]);

/* Options are known: settle the reference and export the choices. May end the client with status 125. */
int client_settle(void);

/* srun, after the step was created and before its launch message: seal the command. */
int client_seal(spank_t spank);

#endif
