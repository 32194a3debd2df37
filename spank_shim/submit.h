/* SPDX-License-Identifier: Apache-2.0
 *
 * What the engine says of a job before it has nodes (engine/fairlead/run/submit.py), by the interpreter of this
 * installation, as the user. It protects nothing, since the node checks again. */
#ifndef FAIRLEAD_SUBMIT_H
#define FAIRLEAD_SUBMIT_H

#include "options.h"

enum submit_answer {
	SUBMIT_FINE,      /* the text is what is to be known, as lines */
	SUBMIT_REFUSED,   /* the text is a line for the user */
	SUBMIT_NO_ENGINE, /* there is none on this host, or it does not start */
};

/* A reference, an environment file's path, the digest of what it holds; or a line for the user. */
#define SUBMIT_MAX (2 * OPTION_MAX + 128)

/* Ask the engine what the reference means from now on (empty: it stays), where that must be asked for; the options, which
 * were exported, are checked as well, unless within a job, where the engine on the node says the same at once. around:
 * the reference of the job in which this command runs, or NULL. Fills the text in any case. */
enum submit_answer submit_settle(const char *prefix, const char *reference, const char *around, char ret_text[SUBMIT_MAX]);

#endif
