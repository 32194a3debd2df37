/* SPDX-License-Identifier: Apache-2.0
 *
 * The options that the shim adds to srun, sbatch and salloc, and the way on which they reach the engine: one table, and
 * no code per option.
 *
 *   srun's side   each choice becomes the variable SLURM_FAIRLEAD_KEY of the job (the prefix survives --export=NONE, and
 *                 inner sruns inherit it); what was not chosen there may have a default in the user's environment
 *   slurmstepd    each variable of a key becomes the fact "key=value" of the engine's request, and with it a part of the
 *                 key under which a plan is kept; nothing else of the options is read there
 *   engine        gives them a meaning and checks them again (plan/pyxis.py)
 *
 * A further option is a line of the table in options.c and what the engine does with its key. */
#ifndef FAIRLEAD_OPTIONS_H
#define FAIRLEAD_OPTIONS_H

#include <slurm/spank.h>
#include <stdio.h>

#define OPTION_MAX 4096
/* Of one variable, since it must pass execve (MAX_ARG_STRLEN, 128 KiB, holds name and value). */
#define OPTION_MAX_VALUE (96 * 1024)

#define VARIABLE_PREFIX "SLURM_FAIRLEAD_"
#define VARIABLE_REFERENCE VARIABLE_PREFIX "REF"
/* Whose meaning the options have: "pyxis" when pyxis's own named the image. */
#define VARIABLE_STYLE VARIABLE_PREFIX "STYLE"
/* The environment file that lies under an image that was named beside it. */
#define VARIABLE_ENVIRONMENT VARIABLE_PREFIX "ENVIRONMENT"
/* What it held when the job was submitted. */
#define VARIABLE_ENVIRONMENT_DIGEST VARIABLE_ENVIRONMENT "_DIGEST"
#define VARIABLE_WORKDIR VARIABLE_PREFIX "WORKDIR"
#define VARIABLE_BATCH VARIABLE_PREFIX "BATCH"
#define VARIABLE_REPORT VARIABLE_PREFIX "REPORT"
#define STYLE_PYXIS "pyxis"

/* Register the options in this context; pyxis: also those that have pyxis's names. */
int options_register(spank_t spank, int pyxis);

/* What is wrong with the command line's options: a line for the user, or NULL. */
const char *options_error(void);

/* What the command line, else the user's environment, chose for a key; NULL for neither. */
const char *options_given(const char *key);
const char *options_default(const char *key);

/* Export the choices as variables; defaults: also those of the user's environment. Returns as options_error() does. */
const char *options_export(int defaults);

/* Call back with the name of each option that the command line gave and that means nothing without a container. */
void options_without_container(void (*tell)(const char *name));

/* Whether an option was chosen, in whatever way, whose value has a grammar that only the engine knows. */
int options_want_check(void);

/* Call back with the name of each variable that hands a choice on. */
void options_each_variable(void (*visit)(const char *variable, void *context), void *context);

/* Forget what the command line chose: the next component of a heterogeneous step has words of its own. */
void options_begin_again(void);

/* The value in an environment ("NAME=VALUE" strings and NULL), or NULL. */
const char *options_value_in(char *const *environment, const char *name);

/* Write the facts of an environment ("NAME=VALUE" strings and NULL), each with its NUL. */
void options_facts(FILE *out, char *const *environment);

#endif
