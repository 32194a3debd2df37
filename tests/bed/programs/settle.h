/* Bring all ranks to rest before MPI_Finalize. */
#ifndef SETTLE_H
#define SETTLE_H

#include <mpi.h>
#include <unistd.h>

/*
 * MPICH 4.0 over UCX's TCP hangs in MPI_Finalize in one run of four, container or not: to close a connection a rank needs an
 * answer from its peer, and a peer that gave its answers early, still inside MPI_Barrier, may itself ask only after the
 * first has gone on to wait in the PMI barrier, where nobody answers (mended by pull request 6596 of pmodels/mpich, 2023).
 * So no rank may be inside MPI when the first one enters MPI_Finalize.
 */
static void settle(void)
{
	MPI_Barrier(MPI_COMM_WORLD);
	usleep(100 * 1000);
}

#endif
