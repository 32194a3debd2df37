// The matrix's C++ program: a sum over all ranks and an exception thrown through MPI's own frames.
// With BINDINGS by the C++ bindings that MPI-3 removed, else by the C interface.
#include "report.h"

#include <mpi.h>
#include <stdexcept>
#include <string>
#include <vector>

static void thrower(MPI_Comm *, int *, ...)
{
	throw std::runtime_error("from the error handler");
}

// The unwinder must find its way through the library's frames: with a library that was put there, by its own tables.
static bool exception_passes()
{
	MPI_Errhandler handler;
	bool caught = false;

	MPI_Comm_create_errhandler(thrower, &handler);
	MPI_Comm_set_errhandler(MPI_COMM_SELF, handler);
	try {
		MPI_Comm_call_errhandler(MPI_COMM_SELF, MPI_ERR_OTHER);
	} catch (const std::exception &error) {
		caught = std::string(error.what()) == "from the error handler";
	}
	MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_ARE_FATAL);
	MPI_Errhandler_free(&handler);
	return caught;
}

int main(int argc, char **argv)
{
	char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
	int rank, size, length, bad;

#ifdef BINDINGS
	MPI::Init(argc, argv);
	rank = MPI::COMM_WORLD.Get_rank();
	size = MPI::COMM_WORLD.Get_size();
	std::vector<double> mine(10, rank), total(10);
	MPI::COMM_WORLD.Allreduce(mine.data(), total.data(), 10, MPI::DOUBLE, MPI::SUM);
#else
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	std::vector<double> mine(10, rank), total(10);
	MPI_Allreduce(mine.data(), total.data(), 10, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
#endif
	MPI_Get_library_version(version, &length);
	bool ok = total[9] == size * (size - 1) / 2 && exception_passes();
	bad = report(LANGUAGE, rank, size, ok, -1, version);
	MPI_Barrier(MPI_COMM_WORLD);
	rest();
	MPI_Finalize();
	return bad;
}
