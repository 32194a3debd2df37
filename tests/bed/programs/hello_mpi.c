/*
 * One line per rank: rank, size, node, MPI library version, and which libmpi is mapped (path and build-id).
 *
 * Compiled into an image with -DIMAGE_BUILD_ID="...", the build-id of the image's own libmpi, it also says whose library
 * runs. The ranks really talk: a sum over all ranks is checked, so N singletons cannot pass for one world of N.
 * Exit status 1 if the world's size is not SLURM_NTASKS, the sum is wrong, or not exactly one libmpi is mapped.
 */
#define _GNU_SOURCE
#include "loaded.h"
#include "settle.h"

#include <mpi.h>
#include <stdlib.h>
#include <unistd.h>

static const char *whose(const struct loaded *mpi)
{
#ifdef IMAGE_BUILD_ID
	return strcmp(mpi->build_id, IMAGE_BUILD_ID) ? "the host's MPI" : "the image's own MPI";
#else
	(void)mpi;
	return "not in a container";
#endif
}

int main(int argc, char **argv)
{
	char version[MPI_MAX_LIBRARY_VERSION_STRING] = "", host[256] = "";
	const char *tasks = getenv("SLURM_NTASKS"), *node = getenv("SLURMD_NODENAME");
	int rank, size, length, sum = 0, one = 1, ok;
	struct loaded mpi;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
	MPI_Get_library_version(version, &length);
	for (char *end = version; *end; end++)
		if (*end == ',' || *end == '\n') {
			*end = 0;
			break;
		}
	for (char *tab = version; (tab = strchr(tab, '\t'));)
		*tab = ' ';
	gethostname(host, sizeof host - 1);
	mpi = loaded_mpi();
	ok = sum == size && mpi.count == 1 && (!tasks || atoi(tasks) == size);
	printf("rank %d of %d on %s (%s): %s, %s: %s, build-id %.12s%s\n", rank, size, host, node ? node : "no Slurm node",
	       version, whose(&mpi), mpi.path, mpi.build_id, ok ? "" : " WRONG");
	fflush(stdout);
	settle();
	MPI_Finalize();
	return !ok;
}
