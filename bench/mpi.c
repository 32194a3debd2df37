/*
 * Two ranks: half the round trip of 8 bytes, bandwidth of messages up to 16 MiB, an allreduce of 8 bytes. Prints
 * NAME=VALUE, in microseconds and GB/s, the best of REPEATS each: what the transport can do, not what else the node did.
 * Takes how often the usual number of messages is divided: for a look whether it runs, on a machine that has other work.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REPEATS 5
#define LARGEST (16 << 20)

static char *buffer;

static void ping(int rank, int bytes)
{
	if (rank == 0) {
		MPI_Send(buffer, bytes, MPI_BYTE, 1, 1, MPI_COMM_WORLD);
		MPI_Recv(buffer, bytes, MPI_BYTE, 1, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	} else {
		MPI_Recv(buffer, bytes, MPI_BYTE, 0, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		MPI_Send(buffer, bytes, MPI_BYTE, 0, 1, MPI_COMM_WORLD);
	}
}

/* Seconds for one way. */
static double one_way(int rank, int bytes, int times)
{
	double best = 1e9, begin, seconds;

	for (int repeat = 0; repeat < REPEATS; repeat++) {
		for (int i = 0; i < times / 10 + 1; i++)
			ping(rank, bytes);
		MPI_Barrier(MPI_COMM_WORLD);
		begin = MPI_Wtime();
		for (int i = 0; i < times; i++)
			ping(rank, bytes);
		seconds = (MPI_Wtime() - begin) / times / 2;
		best = seconds < best ? seconds : best;
	}
	return best;
}

static double allreduce(int times)
{
	double best = 1e9, begin, seconds, mine = 1, sum;

	for (int repeat = 0; repeat < REPEATS; repeat++) {
		MPI_Barrier(MPI_COMM_WORLD);
		begin = MPI_Wtime();
		for (int i = 0; i < times; i++)
			MPI_Allreduce(&mine, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
		seconds = (MPI_Wtime() - begin) / times;
		best = seconds < best ? seconds : best;
	}
	return best;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int bytes, times;
	} sizes[] = { { "64KiB", 64 << 10, 2000 }, { "1MiB", 1 << 20, 300 }, { "4MiB", 4 << 20, 80 }, { "16MiB", LARGEST, 20 } };
	int rank, size, share = argc > 1 ? atoi(argv[1]) : 1;
	double seconds;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	if (size != 2)
		MPI_Abort(MPI_COMM_WORLD, 1);
	buffer = aligned_alloc(4096, LARGEST);
	memset(buffer, rank, LARGEST);
	seconds = one_way(rank, 8, 20000 / share + 1);
	if (rank == 0)
		printf("latency_8B_us=%.4f\n", seconds * 1e6);
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		seconds = one_way(rank, sizes[i].bytes, sizes[i].times / share + 1);
		if (rank == 0)
			printf("bandwidth_%s_GBps=%.3f\n", sizes[i].name, sizes[i].bytes / seconds / 1e9);
	}
	seconds = allreduce(5000 / share + 1);
	if (rank == 0)
		printf("allreduce_8B_us=%.4f\n", seconds * 1e6);
	MPI_Finalize();
	return 0;
}
