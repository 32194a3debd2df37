/*
 * Cross-memory attach between ranks of one node: one line per rank.
 *
 * Every rank reads a word of its partner's memory with process_vm_readv (EPERM if the two sit in sibling user
 * namespaces), exchanges 4 MiB by MPI with it, and tells what OpenMPI's shared-memory transport chose for large messages
 * (MPI_T control variable btl_vader_single_copy_mechanism; "none" is what it falls back to without CMA).
 * Needs an even number of ranks, partners on one node. Exit status 1 if the read or the exchange fails.
 */
#define _GNU_SOURCE
#include "settle.h"

#include <errno.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { EXCHANGE_BYTES = 4 << 20 };

struct where {
	int64_t pid;
	uint64_t address;
	uint64_t word;
};

static const char *single_copy_mechanism(char *ret_name, int capacity)
{
	int provided, index, count, value;
	MPI_T_cvar_handle handle;
	MPI_T_enum names;
	char text[256];
	int length = sizeof text, verbosity, bind, scope, description = 0;
	MPI_Datatype type;

	if (MPI_T_init_thread(MPI_THREAD_SINGLE, &provided) != MPI_SUCCESS)
		return "unknown";
	if (MPI_T_cvar_get_index("btl_vader_single_copy_mechanism", &index) != MPI_SUCCESS)
		return "nothing (OpenMPI's vader not in use)";
	if (MPI_T_cvar_get_info(index, text, &length, &verbosity, &type, &names, NULL, &description, &bind, &scope) ||
	    MPI_T_cvar_handle_alloc(index, NULL, &handle, &count) || MPI_T_cvar_read(handle, &value))
		return "unknown";
	if (names == MPI_T_ENUM_NULL || MPI_T_enum_get_info(names, &count, text, &length))
		return "unknown";
	for (int i = 0; i < count; i++) {
		int item, size = capacity;

		if (!MPI_T_enum_get_item(names, i, &item, ret_name, &size) && item == value)
			return ret_name;
	}
	return "unknown";
}

static int exchange(int rank, int partner)
{
	unsigned char *out = malloc(EXCHANGE_BYTES), *in = calloc(1, EXCHANGE_BYTES);
	int ok = out && in;

	if (ok) {
		memset(out, 1 + rank % 250, EXCHANGE_BYTES);
		MPI_Sendrecv(out, EXCHANGE_BYTES, MPI_BYTE, partner, 0, in, EXCHANGE_BYTES, MPI_BYTE, partner, 0, MPI_COMM_WORLD,
			     MPI_STATUS_IGNORE);
		for (int i = 0; i < EXCHANGE_BYTES; i += 4096)
			ok &= in[i] == 1 + partner % 250;
	}
	free(out);
	free(in);
	return ok;
}

int main(int argc, char **argv)
{
	volatile uint64_t secret;
	struct where mine, theirs;
	uint64_t word = 0;
	struct iovec local = { &word, sizeof word }, remote;
	char name[64];
	ssize_t got;
	int rank, partner, error, ok;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	partner = rank ^ 1;
	secret = 0xfa171ead00000000u + (unsigned)rank;
	mine = (struct where){ getpid(), (uintptr_t)&secret, secret };
	MPI_Sendrecv(&mine, sizeof mine, MPI_BYTE, partner, 1, &theirs, sizeof theirs, MPI_BYTE, partner, 1, MPI_COMM_WORLD,
		     MPI_STATUS_IGNORE);
	remote = (struct iovec){ (void *)(uintptr_t)theirs.address, sizeof word };
	got = process_vm_readv((pid_t)theirs.pid, &local, 1, &remote, 1, 0);
	error = errno;
	ok = got == sizeof word && word == theirs.word;
	printf("rank %d: process_vm_readv of rank %d: %s, single copy by %s, ", rank, partner,
	       ok ? "ok" : got < 0 ? strerror(error) : "wrong data", single_copy_mechanism(name, sizeof name));
	ok &= exchange(rank, partner);
	printf("4 MiB exchange %s\n", ok ? "ok" : "not ok");
	fflush(stdout);
	settle(); /* also: the partner's stack must live until both have read */
	MPI_Finalize();
	return !ok;
}
