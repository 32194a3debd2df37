/* A program for forged.c: asks which world it is in and whose library answers. No standard library, so that it can be
 * built for another machine type or libc from one source. */
int MPI_Init(int *argc, char ***argv);
int MPI_Finalize(void);
int MPI_Comm_size(void *comm, int *ret);
int MPI_Get_library_version(char *ret, int *length);
long write(int fd, const void *data, unsigned long size);

#ifdef OPENMPI
extern char ompi_mpi_comm_world[1024];
#define WORLD ompi_mpi_comm_world
#else
#define WORLD ((void *)0x44000000)
#endif

int main(int argc, char **argv)
{
	static char line[8192] = "forged size=0 version=";
	int length = 0, size = 0, end = 22;

	MPI_Init(&argc, &argv);
	MPI_Comm_size(WORLD, &size);
	MPI_Get_library_version(line + end, &length);
	line[12] = (char)('0' + size);
	for (int i = end; i < end + length; i++)
		if (line[i] == '\n' || line[i] == '\t')
			line[i] = ' ';
	line[end + length] = '\n';
	write(1, line, (unsigned long)(end + length + 1));
	MPI_Finalize();
	return 0;
}

#ifdef START
/* 32-bit x86 without its libc. */
long write(int fd, const void *data, unsigned long size)
{
	long ret;

	__asm__ volatile("int $0x80" : "=a"(ret) : "a"(4), "b"(fd), "c"(data), "d"(size) : "memory");
	return ret;
}

void _start(void)
{
	main(0, 0);
	__asm__ volatile("int $0x80" : : "a"(1), "b"(0));
}
#endif
