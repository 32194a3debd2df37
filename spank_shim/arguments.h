/* SPDX-License-Identifier: Apache-2.0
 *
 * What the administrator's line in plugstack.conf says after the plugin's path.
 *
 *   prefix=/opt/fairlead      where Fairlead is installed
 *   site=/var/lib/fairlead    the node's shared store; without it every user has a store of their own
 *   grace=3600                seconds for which a user's proven access to an image holds for their other jobs
 *   upper_max=50%             how much a container may be given to write to on the store's disk (upper = "disk"), as 20G or
 *                             of what is free; 0: nothing. The broker reads it, and refuses where it makes no sense of it
 *   log=syslog                a line of JSON for each step that asks for a container (launch_log.h), to syslog, or to the file
 *                             of a path; without it none
 *   pyxis_compat=yes          whether the options have pyxis's names, too; no where pyxis itself is loaded
 *
 * and, with pyxis's own meaning:
 *   sbatch_support=1          whether sbatch and salloc have those options
 *   execute_entrypoint=0      whether an image's entrypoint runs where pyxis's option named the image
 *   container_scope=global    how long a named container lives: global or job
 *
 * Others of pyxis's say how it fetches and keeps images; they have no meaning here, and slurmd's log says so. */
#ifndef FAIRLEAD_ARGUMENTS_H
#define FAIRLEAD_ARGUMENTS_H

#include "options.h"

struct arguments {
	char prefix[OPTION_MAX];
	char site[OPTION_MAX]; /* empty: none */
	char upper_max[32];
	char log[256]; /* syslog, or a path; empty: nothing is logged */
	unsigned int grace_s;
	int pyxis_compat, sbatch_support, execute_entrypoint;
	char scope[8]; /* global or job */
};

extern struct arguments arguments;

/* Read the words; what is not understood is left out, since nothing may fail here. */
void arguments_read(int argc, char *argv[]);

/* Write to slurmd's log which words are not understood, or are pyxis's and have no meaning here. */
void arguments_explain(int argc, char *argv[]);

#endif
