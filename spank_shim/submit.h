/* SPDX-License-Identifier: Apache-2.0
 *
 * What the engine says of a job before it has nodes (engine/fairlead/run/submit.py), by the interpreter of this
 * installation, as the user. It protects nothing, since the node checks again. */
#ifndef FAIRLEAD_SUBMIT_H
#define FAIRLEAD_SUBMIT_H

#include <stddef.h>

enum submit_answer {
	SUBMIT_FINE,      /* the text is what is to be known */
	SUBMIT_REFUSED,   /* the text is a line for the user */
	SUBMIT_NO_ENGINE, /* there is none on this host, or it does not start */
};

/* Ask the engine about the options that were exported; verb: check or freeze. Fills the text in any case. */
enum submit_answer submit_ask(const char *prefix, const char *verb, char *ret_text, size_t size);

#endif
