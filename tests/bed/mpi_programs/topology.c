/* Linked to the image's hwloc beside MPI: linked in first, it interposes the one that the host's MPI brings. */
#include <hwloc.h>

int topology_cores(void);

int topology_cores(void)
{
	hwloc_topology_t topology;
	int cores = -1;

	if (hwloc_topology_init(&topology))
		return -1;
	if (!hwloc_topology_load(topology))
		cores = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE);
	hwloc_topology_destroy(topology);
	return cores;
}

/* Before main, so that it is this copy which is at work when MPI starts. */
__attribute__((constructor)) static void use(void)
{
	if (topology_cores() < 1)
		__builtin_trap();
}
