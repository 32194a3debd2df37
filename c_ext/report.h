/* SPDX-License-Identifier: Apache-2.0
 *
 * How a failure in C reaches the person who must read it: the step that failed, errno, and the path or name that it
 * concerns. The text is made in Python (run/namespace.py) or, after the hand-over, by exec_describe(). */
#ifndef FAIRLEAD_REPORT_H
#define FAIRLEAD_REPORT_H

enum report_step {
	STEP_NONE = 0,
	STEP_BLOCK,      /* the launch block is malformed */
	STEP_USERNS,     /* unshare, uid_map, gid_map */
	STEP_STAGE,      /* tmpfs for the writable upper and generated files */
	STEP_LAYER,      /* a lower directory of the root */
	STEP_OVERLAY,    /* the overlay mount of the root */
	STEP_SOURCE,     /* the source of a bind or device */
	STEP_TARGET,     /* the mount point inside the root */
	STEP_MOUNT,      /* attaching or changing a mount */
	STEP_FILE,       /* a generated file or link */
	STEP_PIVOT,      /* pivot_root and detaching the host's root */
	STEP_JOIN,       /* setns */
	STEP_WORKDIR,    /* chdir to the working directory */
	STEP_COMMAND,    /* finding or executing the command */
	STEP_PRIVILEGE,  /* no_new_privs, bounding set */
};

struct report {
	int err; /* positive errno */
	int step;
	char detail[1024];
};

/* Fill a report and return -err, so that callers can write `return report_set(...)`. */
int report_set(struct report *report, int step, int err, const char *detail);

/* Make a line safe for a log or a terminal: control characters (C1 in UTF-8 too) become '?', in place. */
char *report_printable(char *line);

#endif
