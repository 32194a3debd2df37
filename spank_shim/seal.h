/* SPDX-License-Identifier: Apache-2.0
 *
 * Fail closed on a node without the plugin: srun's side turns the command into a path that exists on no host, and
 * only the plugin's side in slurmstepd turns it back. What the user sees from a node without the plugin is
 * slurmstepd's own "execve(): /.fairlead/this node has no fairlead plugin: ./app: No such file or directory".
 *
 * With --multi-prog the configuration's text is what travels; there every program becomes the argument of
 * SEAL_PROGRAM, which exists in the container only. */
#ifndef FAIRLEAD_SEAL_H
#define FAIRLEAD_SEAL_H

#define SEAL_PREFIX "/.fairlead/this node has no fairlead plugin: "
#define SEAL_PROGRAM "/.fairlead/exec"

/* The sruns of a batch script may start on a node without the plugin, where nothing seals their commands. So sbatch and
 * salloc leave a value in the job's environment that srun refuses ("Invalid numeric value ... for --wait"), and only the
 * plugin in srun takes it out again before srun reads its variables. A value that the user gave is kept beside it. This
 * variable, because srun alone reads it and checks it whatever options are given (SLURM_HINT is forgotten when one of
 * --cpu-bind, --threads-per-core and others is there). */
#define SEAL_VARIABLE "SLURM_WAIT"
#define SEAL_VALUE "this-node-has-no-fairlead-plugin"
#define SEAL_VARIABLE_SAVED "SLURM_FAIRLEAD_WAIT"

/* The sealed command; the caller frees it. NULL when memory ran out. */
char *seal_command(const char *command);

/* The command behind a seal: a pointer into the text, or NULL when it is not sealed. */
const char *seal_open(const char *sealed);

/* The text of a --multi-prog configuration with every program behind SEAL_PROGRAM; the caller frees it. */
char *seal_programs(const char *text);

#endif
