/* A program without any link to MPI, which opens its library by absolute path, as some plugins and script languages do. */
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	void *mpi = dlopen(LIBRARY, RTLD_NOW | RTLD_GLOBAL);
	void *program = mpi ? dlopen("/opt/mpi/libring.so", RTLD_NOW) : NULL;
	int (*run)(int, char **) = NULL;

	if (program)
		*(void **)&run = dlsym(program, "ring_main");
	if (!run) {
		fprintf(stderr, "opened: %s\n", dlerror());
		return 1;
	}
	return run(argc, argv);
}
