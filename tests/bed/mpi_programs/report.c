/*
 * One line per rank, for a machine to read: world, results, and which MPI library runs, from this process's own memory.
 *
 *   cell language=c rank=0 size=4 node=n1 sum=ok ring=ok own=1 other=0 id=4d5e... library=/usr/lib/.../libmpi.so.40.30.4 version=Open MPI v4.1.4
 *
 * library and id: the file that answers MPI calls (the one that defines MPI_Get_library_version), and its build-id.
 * own and other: how many of all mapped MPI libraries, bindings included, are the image's own and how many are not. The
 * image's have build-ids of their own, listed in /opt/mpi/image-ids; both above 0 is a world put together from two.
 */
#define _GNU_SOURCE
#include "report.h"

#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define IDS "/opt/mpi/image-ids"

static int own, other;
static char ids[1 << 14], answering[4096], answering_id[48];

static void build_id(const struct dl_phdr_info *info, char ret_hex[41])
{
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const char *note = (const char *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
		const char *end = note + info->dlpi_phdr[i].p_memsz;

		if (info->dlpi_phdr[i].p_type != PT_NOTE)
			continue;
		while (end - note > (long)sizeof(ElfW(Nhdr))) {
			const ElfW(Nhdr) *header = (const ElfW(Nhdr) *)note;
			const unsigned char *data = (const unsigned char *)(header + 1) + ((header->n_namesz + 3u) & ~3u);

			if (header->n_type == NT_GNU_BUILD_ID && header->n_namesz == 4 && !memcmp(header + 1, "GNU", 4))
				for (unsigned k = 0; k < header->n_descsz && k < 20; k++)
					sprintf(ret_hex + 2 * k, "%02x", data[k]);
			note = (const char *)data + ((header->n_descsz + 3u) & ~3u);
		}
	}
}

/*
 * libmpi.so.40, libmpi_mpifh.so.40, libmpich.so.12, libmpichfort.so.12, libopen_mpi.so.40, libmpi_abi.so.1; bindings too.
 * Not Debian's libmpi_mpifh-gfortran.so.40 and its like: empty, only their DT_NEEDED counts, and without build-ids.
 */
static int is_mpi(const char *path)
{
	const char *name = strrchr(path, '/');

	name = name ? name + 1 : path;
	if (strstr(name, "-gfortran.so"))
		return 0;
	return !strncmp(name, "libmpi.", 7) || !strncmp(name, "libmpi_", 7) || !strncmp(name, "libmpich", 8) ||
	       !strncmp(name, "libmpifort", 10) || !strncmp(name, "libmpicxx", 9) || !strncmp(name, "libopen_mpi", 11);
}

static int visit(struct dl_phdr_info *info, size_t size, void *data)
{
	char id[41] = "";
	int answers = *info->dlpi_name && !strcmp(info->dlpi_name, data);

	(void)size;
	if (!answers && !is_mpi(info->dlpi_name))
		return 0;
	build_id(info, id);
	if (answers)
		strcpy(answering_id, id);
	if (*id && strstr(ids, id))
		own++;
	else
		other++;
	return 0;
}

static void look(void)
{
	static const char *const names[] = { "libmpi.so.40", "libmpich.so.12", "libmpi.so.12", "libmpi_abi.so.1" };
	FILE *file = fopen(IDS, "r");
	void *call = dlsym(RTLD_DEFAULT, "MPI_Get_library_version");
	Dl_info where = { 0 };

	if (file) {
		ids[fread(ids, 1, sizeof ids - 1, file)] = 0;
		fclose(file);
	}
	/* Python has loaded it for itself alone. */
	for (size_t i = 0; !call && i < sizeof names / sizeof *names; i++) {
		void *library = dlopen(names[i], RTLD_LAZY | RTLD_NOLOAD);

		call = library ? dlsym(library, "MPI_Get_library_version") : NULL;
	}
	if (call && dladdr(call, &where) && where.dli_fname)
		snprintf(answering, sizeof answering, "%s", where.dli_fname);
	own = other = 0;
	dl_iterate_phdr(visit, answering);
}

/* The first line's first part, blanks squeezed: "Open MPI v4.1.4", "MPICH Version: 4.0.2". */
static void shorten(const char *version, char *ret, size_t size)
{
	size_t n = 0;

	for (; *version && *version != ',' && *version != '\n' && n + 1 < size; version++) {
		char c = *version == '\t' ? ' ' : *version;

		if (c != ' ' || (n && ret[n - 1] != ' '))
			ret[n++] = c;
	}
	while (n && ret[n - 1] == ' ')
		n--;
	ret[n] = 0;
}

int report(const char *language, int rank, int size, int sum_ok, int ring_ok, const char *version)
{
	const char *node = getenv("SLURMD_NODENAME"), *tasks = getenv("SLURM_NTASKS");
	char brief[128], real[4096];

	look();
	shorten(version, brief, sizeof brief);
	printf("cell language=%s rank=%d size=%d node=%s sum=%s ring=%s own=%d other=%d id=%s library=%s version=%s\n", language,
	       rank, size, node ? node : "none", sum_ok ? "ok" : "wrong", ring_ok < 0 ? "none" : ring_ok ? "ok" : "wrong", own,
	       other, *answering_id ? answering_id : "none", realpath(answering, real) ? real : "none", brief);
	fflush(stdout);
	return !(sum_ok && ring_ok && (!tasks || atoi(tasks) == size));
}

void rest(void)
{
	usleep(500 * 1000);
}
