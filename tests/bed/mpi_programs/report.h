/* What a rank of the MPI matrix tells about itself; see report.c. */
#ifndef REPORT_H
#define REPORT_H

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Print one line. ring_ok is -1 where the program exchanges no ring. Returns the rank's exit status: 0 if all is well,
 * 1 if a result or the world's size is wrong.
 */
int report(const char *language, int rank, int size, int sum_ok, int ring_ok, const char *version);

/*
 * Let the other ranks come to rest: called between MPI_Barrier and MPI_Finalize. See programs/settle.h for the hang in MPICH
 * 4.0 that this avoids; on a machine with more daemons than processors a tenth of a second is not enough.
 */
void rest(void);

#ifdef __cplusplus
}
#endif
#endif
