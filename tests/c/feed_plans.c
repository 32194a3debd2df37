/* SPDX-License-Identifier: Apache-2.0
 *
 * Feeds entries of the plan cache to their reader, for sanitizers and fuzzers, and shows the key of a process.
 *
 *	feed_plans		stdin:   records of { uint32 flags, uint32 size, size bytes }; flags 1: the sum is set right
 *				         first, so that damage gets past it
 *				stdout:  one line for each: "ok BYTES", "refused", "stale" or "unexpanded ERRNO"
 *	feed_plans PREFIX	stdout:  the key that a process with this environment has
 *
 * Each entry lies in a buffer of exactly its size, so that a read past the end is seen. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../c_ext/plan_check.h"
#include "../../c_ext/plan_entry.h"
#include "../../c_ext/plan_expand.h"
#include "../../c_ext/plan_key.h"

enum { CHECKSUM = 8, SUMMED = 16 }; /* offsets, drawn in plan_entry.h */

static char *const environment[] = { "A=1", "PMIX_SERVER_TMPDIR=/tmp", "SLURM_JOB_ID=7", "EMPTY=", NULL };

static void answer(const void *data, size_t size)
{
	struct plan_entry entry;
	const char *failed;
	void *block = NULL;
	int err;

	if (plan_entry_open(&entry, data, size) < 0) {
		puts("refused");
	} else if (plan_check(entry.block, entry.block_size, environment, &failed) < 0) {
		printf("stale %zu\n", strlen(failed));
	} else {
		err = plan_expand(entry.block, entry.block_size, environment, &block, &size);
		if (err)
			printf("unexpanded %d\n", -err);
		else
			printf("ok %zu\n", size);
		free(block);
	}
	fflush(stdout);
}

int main(int argc, char *argv[])
{
	uint32_t head[2];

	if (argc > 1)
		return plan_key_add(stdout, argv[1], environ) < 0;
	while (fread(head, sizeof(head), 1, stdin) == 1) {
		unsigned char *data = malloc(head[1] ? head[1] : 1);
		uint64_t sum;

		if (!data || fread(data, 1, head[1], stdin) != head[1])
			abort();
		if (head[0] & 1 && head[1] > SUMMED) {
			sum = plan_hash(data + SUMMED, head[1] - SUMMED);
			memcpy(data + CHECKSUM, &sum, sizeof(sum));
		}
		answer(data, head[1]);
		free(data);
	}
	return 0;
}
