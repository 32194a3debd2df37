/* SPDX-License-Identifier: Apache-2.0
 *
 * What the shim needs from Slurm beyond spank.h, taken at run time so that one binary serves 20.11 to 26.05: no
 * structure layout is assumed, and a symbol that is missing is a NULL, not a plugin that will not load. */
#ifndef FAIRLEAD_SLURM_API_H
#define FAIRLEAD_SLURM_API_H

#include <slurm/spank.h>
#include <stdint.h>

/* libslurm's API number, 36 for 20.11, 38 for 22.05, 42 for 24.11 ...; 0 when unknown. */
unsigned int slurm_api_number(void);

/* The release in the form of SLURM_VERSION_NUMBER, minor part only, for plugin_version; 0 when unknown. */
unsigned int slurm_api_release(void);

/* --container became Slurm's own option with 21.08. */
int slurm_api_owns_container(void);

/* Value of a client option (srun, sbatch, salloc) or NULL; a copy that lives as long as the client. */
const char *slurm_api_option(const char *name);

/* Whether the command line set an option, named by its letter. */
int slurm_api_given(int letter);

/* Whether an option of this command has a value. */
int slurm_api_is_set(const char *name);

/* Set an option of this command, given or not. 0, or -1 if the release has no such option, or does not let a plugin do it. */
int slurm_api_option_set(const char *name, const char *value);

/* Clear a client option. */
void slurm_api_option_reset(const char *name);

/* The site's SrunPortRange; 0 where there is none. */
int slurm_api_srun_ports(uint16_t *ret_first, uint16_t *ret_last);

/* A copy that Slurm's xfree accepts. */
char *slurm_api_strdup(const char *text);

/* Whether an oci.conf stands beside slurm.conf (conf may be NULL): then Slurm itself runs --container. */
int slurm_api_has_oci_conf(const char *conf);

/* spank_prepend_task_argv (23.02.5 and later): 0, or -ENOSYS where it does not exist, or -EIO. */
int slurm_api_prepend(spank_t spank, const char *word);

enum { STEP_BATCH = 0xfffffffb, STEP_EXTERN = 0xfffffffc, STEP_INTERACTIVE = 0xfffffffa };

#endif
