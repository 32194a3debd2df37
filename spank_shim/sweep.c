/* SPDX-License-Identifier: Apache-2.0
 *
 * fairlead-sweep STORE: remove what killed processes left in a store, as its owner: for an epilog (conf/epilog.sh). Nothing
 * that anybody works in, no image, nothing of a named container. It is installed so that nobody can read it, and the kernel
 * then lets no process of the same user trace it: an epilog runs outside of the job's limits. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "stages.h"

int main(int argc, char *argv[])
{
	int store, rc;

	if (argc != 2 || argv[1][0] != '/' || geteuid() == 0) {
		dprintf(STDERR_FILENO, "usage: fairlead-sweep /STORE, as the store's owner and not as root\n");
		return 125;
	}
	store = open(argv[1], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	rc = store < 0 ? -errno : stages_sweep(store);
	if (rc < 0)
		dprintf(STDERR_FILENO, "fairlead-sweep: %s: %s\n", argv[1], strerror(-rc));
	return rc < 0;
}
