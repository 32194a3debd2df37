/* SPDX-License-Identifier: Apache-2.0
 *
 * The SPANK plugin's entry points: one switch on the context and nothing else.
 *
 *   client.c   srun, sbatch, salloc     as the user, before the job
 *   remote.c   slurmstepd               root until user_init, then the user
 *   launch_log.c slurmstepd             a line about the step for the site's logs
 *   container.c slurmstepd's task       the container from a kept plan, else from the engine
 *   engine.c   slurmstepd's task        starts the Python engine, once per node and step
 *   leftovers.c slurmstepd             removes what an engine that was killed left in the user's store
 *   lost_world.c slurmstepd             ends a step of which some ranks have lost their MPI world
 *   after.c    slurmstepd             starts the site's poststop hooks when the last task has ended
 *   broker_*.c fairlead-broker          root, while a container is built: mounts its layers and what it writes to
 *   enter.c    fairlead-enter           the small program that each task becomes before the application
 *
 * Nothing here may exit, abort or fail inside slurmd or slurmstepd: a failure there drains the node. */
#include <slurm/spank.h>

#include "after.h"
#include "arguments.h"
#include "client.h"
#include "component.h"
#include "lost_world.h"
#include "options.h"
#include "remote.h"
#include "slurm_api.h"

/* Not SPANK_PLUGIN(): the version is filled in at load time, so that one binary serves every release. */
extern const char plugin_name[], plugin_type[];
extern unsigned int plugin_version;
extern const unsigned int spank_plugin_version;

#define EXPORT __attribute__((visibility("default")))

EXPORT const char plugin_name[] = "fairlead";
EXPORT const char plugin_type[] = "spank";
EXPORT unsigned int plugin_version;
EXPORT const unsigned int spank_plugin_version = 1;

__attribute__((constructor)) static void set_version(void)
{
	plugin_version = slurm_api_release();
}

EXPORT int slurm_spank_init(spank_t spank, int argc, char *argv[])
{
	switch (spank_context()) {
	case S_CTX_LOCAL:
	case S_CTX_ALLOCATOR:
		return client_init(spank, argc, argv);
	case S_CTX_REMOTE:
		remote_init(spank, argc, argv);
		return 0;
	case S_CTX_SLURMD:
		arguments_explain(argc, argv);
		return 0;
	default:
		return 0;
	}
}

EXPORT int slurm_spank_init_post_opt(spank_t spank, int argc, char *argv[])
{
	(void)argc, (void)argv;
	switch (spank_context()) {
	case S_CTX_LOCAL:
	case S_CTX_ALLOCATOR:
		return client_settle();
	case S_CTX_REMOTE:
		component_take(spank);
		remote_start_broker(spank);
		return 0;
	default:
		return 0;
	}
}

EXPORT int slurm_spank_local_user_init(spank_t spank, int argc, char *argv[])
{
	(void)argc, (void)argv;
	return client_seal(spank);
}

EXPORT int slurm_spank_user_init(spank_t spank, int argc, char *argv[])
{
	(void)argc, (void)argv;
	remote_user_init(spank);
	return 0;
}

EXPORT int slurm_spank_task_init(spank_t spank, int argc, char *argv[])
{
	(void)argc, (void)argv;
	remote_task_init(spank);
	return 0;
}

EXPORT int slurm_spank_task_exit(spank_t spank, int argc, char *argv[])
{
	(void)argc, (void)argv;
	lost_world_task_exit(spank);
	after_task_exit(spank);
	return 0;
}

EXPORT int slurm_spank_exit(spank_t spank, int argc, char *argv[])
{
	(void)spank, (void)argc, (void)argv;
	if (spank_context() == S_CTX_REMOTE)
		remote_exit();
	return 0;
}
