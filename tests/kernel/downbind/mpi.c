#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { MANY = 1 << 20 };

int main(int count, char **words)
{
	char version[MPI_MAX_LIBRARY_VERSION_STRING];
	int length, size, rank, i, right = 1, provided;
	double *out = malloc(MANY * sizeof(double)), *in = malloc(MANY * sizeof(double)), one = 1, sum = 0;

	MPI_Init_thread(&count, &words, MPI_THREAD_FUNNELED, &provided);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Get_library_version(version, &length);
	MPI_Allreduce(&one, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
	for (i = 0; i < MANY; i++)
		out[i] = rank * 1000 + i;
	MPI_Sendrecv(out, MANY, MPI_DOUBLE, (rank + 1) % size, 0, in, MANY, MPI_DOUBLE, (rank + size - 1) % size, 0,
		     MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	for (i = 0; i < MANY; i++)
		right &= in[i] == (rank + size - 1) % size * 1000 + i;
	printf("rank %d of %d, sum %g, ring %d, %.13s\n", rank, size, sum, right, version);
	MPI_Finalize();
	return sum != size || !right;
}
