! The matrix's Fortran program: a sum over all ranks through the Fortran bindings.
program sum_of_ranks
#ifdef F08
  use mpi_f08
#else
  use mpi
#endif
  use, intrinsic :: iso_c_binding
  implicit none

  interface
    integer(c_int) function report(language, rank, size, sum_ok, ring_ok, version) bind(c)
      import :: c_int, c_char
      character(kind=c_char), intent(in) :: language(*), version(*)
      integer(c_int), value :: rank, size, sum_ok, ring_ok
    end function report
    subroutine rest() bind(c)
    end subroutine rest
  end interface

  integer :: error, rank, size, length, bad
  double precision :: mine, total
  character(len=MPI_MAX_LIBRARY_VERSION_STRING) :: version

  call MPI_Init(error)
  call MPI_Comm_rank(MPI_COMM_WORLD, rank, error)
  call MPI_Comm_size(MPI_COMM_WORLD, size, error)
  call MPI_Get_library_version(version, length, error)
  mine = rank
  call MPI_Allreduce(mine, total, 1, MPI_DOUBLE_PRECISION, MPI_SUM, MPI_COMM_WORLD, error)
  bad = report(LANGUAGE//c_null_char, rank, size, merge(1, 0, total == size * (size - 1) / 2), -1, &
    version(1:length)//c_null_char)
  call MPI_Barrier(MPI_COMM_WORLD, error)
  call rest()
  call MPI_Finalize(error)
  if (bad /= 0) stop 1
end program sum_of_ranks
