/* The matrix's C program: a sum over all ranks, and 4 MiB around the ring (large enough for every single-copy path). */
#include "report.h"

#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#define BYTES (4 << 20)

static int ring_ok(int rank, int size)
{
	int before = (rank + size - 1) % size, ok = 1;
	unsigned char *out = malloc(BYTES), *in = calloc(1, BYTES);
	MPI_Status status;

	for (int i = 0; i < BYTES; i++)
		out[i] = (unsigned char)(i * 7 + rank);
	MPI_Sendrecv(out, BYTES, MPI_BYTE, (rank + 1) % size, 7, in, BYTES, MPI_BYTE, before, 7, MPI_COMM_WORLD, &status);
	for (int i = 0; i < BYTES && ok; i++)
		ok = in[i] == (unsigned char)(i * 7 + before);
	ok = ok && status.MPI_SOURCE == before && status.MPI_TAG == 7;
	free(out);
	free(in);
	return ok;
}

int main(int argc, char **argv)
{
	char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
	int rank, size, length, sum = 0, bad;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	MPI_Get_library_version(version, &length);
	MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
	bad = report(LANGUAGE, rank, size, sum == size * (size - 1) / 2, ring_ok(rank, size), version);
	MPI_Barrier(MPI_COMM_WORLD);
	rest();
	MPI_Finalize();
	return bad;
}
