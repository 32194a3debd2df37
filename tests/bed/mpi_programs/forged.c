/*
 * A library that looks like an MPI by its file name and its symbols, and does next to nothing: for images that no package
 * exists for any more. As OPENMPI it is OpenMPI 1.10, which calls itself libmpi.so.12 as MPICH does and whose world object
 * has 1024 bytes; else it is an MPICH. Its world has always one rank, as OpenMPI 1.10's has under a newer Slurm.
 */
#include <stddef.h>

#ifdef OPENMPI
char ompi_mpi_comm_world[1024], ompi_mpi_int[512], ompi_mpi_op_sum[512];
#define VERSION "Open MPI v1.10.7, package: forged, ident: 1.10.7"
#else
int MPIR_Forged_marker;
#define VERSION "MPICH Version:\t3.2\nMPICH Release date:\tforged"
#endif

int MPI_Init(int *argc, char ***argv);
int MPI_Finalize(void);
int MPI_Comm_rank(void *comm, int *ret);
int MPI_Comm_size(void *comm, int *ret);
int MPI_Get_library_version(char *ret, int *length);

int MPI_Init(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	return 0;
}

int MPI_Finalize(void)
{
	return 0;
}

int MPI_Comm_rank(void *comm, int *ret)
{
	(void)comm;
	return *ret = 0;
}

int MPI_Comm_size(void *comm, int *ret)
{
	(void)comm;
	*ret = 1;
	return 0;
}

int MPI_Get_library_version(char *ret, int *length)
{
	const char *text = VERSION;
	int n = 0;

	for (; text[n]; n++)
		ret[n] = text[n];
	ret[n] = 0;
	*length = n;
	return 0;
}
