/* Which MPI library this process really has mapped: its path and its ELF build-id, read from memory, not from a name. */
#ifndef LOADED_H
#define LOADED_H

#include <link.h>
#include <stdio.h>
#include <string.h>

struct loaded {
	char path[4096];   /* as the dynamic loader found it */
	char build_id[41]; /* hex, at most 20 bytes of it; empty if the file has none */
	int count;         /* how many libmpi are mapped; more than one is a broken injection */
};

static void loaded_build_id(const char *note, size_t size, char *ret_hex)
{
	while (size >= sizeof(ElfW(Nhdr))) {
		const ElfW(Nhdr) *header = (const ElfW(Nhdr) *)note;
		size_t name = (header->n_namesz + 3u) & ~(size_t)3, data = (header->n_descsz + 3u) & ~(size_t)3;
		const unsigned char *bytes = (const unsigned char *)note + sizeof *header + name;

		if (sizeof *header + name + data > size)
			return;
		if (header->n_type == NT_GNU_BUILD_ID && header->n_namesz == 4 && !memcmp(header + 1, "GNU", 4)) {
			for (size_t i = 0; i < header->n_descsz && i < 20; i++)
				sprintf(ret_hex + 2 * i, "%02x", bytes[i]);
			return;
		}
		note += sizeof *header + name + data;
		size -= sizeof *header + name + data;
	}
}

static int loaded_visit(struct dl_phdr_info *info, size_t size, void *data)
{
	struct loaded *found = data;
	const char *base = strrchr(info->dlpi_name, '/');
	const char *soname = base ? base + 1 : info->dlpi_name;

	(void)size;
	/* libmpi.so.40, libmpi.so.12, libmpich.so.12, libmpi_abi.so.0; not libmpi_cxx, libmpi_mpifh, libmpich_f */
	if (strncmp(soname, "libmpi.so", 9) && strncmp(soname, "libmpich.so", 11) && strncmp(soname, "libmpi_abi.so", 13))
		return 0;
	if (found->count++)
		return 0;
	snprintf(found->path, sizeof found->path, "%s", info->dlpi_name);
	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_NOTE)
			loaded_build_id((const char *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr),
					info->dlpi_phdr[i].p_memsz, found->build_id);
	return 0;
}

/* The path with symbolic links resolved, as /proc/self/maps has it for the same mapping. */
static void loaded_resolve(struct loaded *found)
{
	char line[4200], *path;
	const char *base = strrchr(found->path, '/');
	size_t stem = base ? strcspn(base, ".") + 3 : 0; /* "/libmpi.so" */
	FILE *maps = fopen("/proc/self/maps", "r");

	while (base && maps && fgets(line, sizeof line, maps)) {
		path = strchr(line, '/');
		if (!path || !strrchr(path, '/') || strncmp(strrchr(path, '/'), base, stem))
			continue;
		path[strcspn(path, "\n")] = 0;
		snprintf(found->path, sizeof found->path, "%s", path);
		break;
	}
	if (maps)
		fclose(maps);
}

static struct loaded loaded_mpi(void)
{
	struct loaded found = { .count = 0 };

	dl_iterate_phdr(loaded_visit, &found);
	loaded_resolve(&found);
	return found;
}

#endif
