/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAIRLEAD_PROGRAM_H
#define FAIRLEAD_PROGRAM_H

/* Whether execve would accept a file, as far as its first page tells: 0; -ENOEXEC when it is neither a script nor a
 * program for this machine, or when its interpreter (#! or PT_INTERP) cannot be executed; or another -errno.
 * So that a bad command is one line for the step and not one per rank. The file is the image's: hostile, so every
 * offset is checked and nothing blocks. */
int program_check(const char *path);

enum program_kind {
	PROGRAM_OTHER,   /* a script, of another machine, unreadable, or one that would gain rights */
	PROGRAM_STATIC,
	PROGRAM_DYNAMIC, /* of this machine, with an interpreter */
};

struct program_facts {
	int kind;
	char interpreter[256]; /* PT_INTERP */
	char mpi[128];         /* the first of its DT_NEEDED that is an MPI library's name */
};

/* What a file is, by its headers; 0 or -errno. */
int program_inspect(const char *path, struct program_facts *ret);

#endif
