/* _dl_find_object: which object an instruction belongs to, for libgcc's unwinder.
 *
 * The list of objects is read under the loader's lock, as unwinders did before 2.35; glibc's own needs no lock. An
 * unwinder in a signal handler that interrupted dlopen in the same thread is let through: the lock is recursive.
 */
#include "polyfill.h"

#include <dlfcn.h>
#include <link.h>

OLD(int, dl_iterate_phdr, int (*)(struct dl_phdr_info *, size_t, void *), void *);
OLD_MAYBE(int, dladdr1, const void *, Dl_info *, void **, int);

/* glibc's struct dl_find_object where no register points to data */
struct found {
	unsigned long long flags;
	void *map_start, *map_end;
	struct link_map *link_map;
	void *eh_frame;
	unsigned long long reserved[7];
};

struct search {
	ElfW(Addr) pc;
	struct found *ret;
};

static int look(struct dl_phdr_info *info, size_t size, void *data)
{
	struct search *search = data;
	ElfW(Addr) low = ~(ElfW(Addr))0, high = 0, frame = 0;
	int inside = 0, i;

	(void)size;
	for (i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *header = &info->dlpi_phdr[i];
		ElfW(Addr) start = info->dlpi_addr + header->p_vaddr, end = start + header->p_memsz;

		if (header->p_type == PT_GNU_EH_FRAME)
			frame = start;
		if (header->p_type != PT_LOAD)
			continue;
		low = start < low ? start : low;
		high = end > high ? end : high;
		inside |= search->pc >= start && search->pc < end;
	}
	if (!inside)
		return 0;
	*search->ret = (struct found){
		.map_start = (void *)low,
		.map_end = (void *)high,
		.eh_frame = (void *)frame,
	};
	return 1;
}

NEW(int, _dl_find_object, void *pc, struct found *ret)
{
	struct search search = { .pc = (ElfW(Addr))pc, .ret = ret };
	Dl_info info;
	void *map = NULL;

	if (!fairlead_old_dl_iterate_phdr(look, &search))
		return -1;
	if (fairlead_old_dladdr1 && fairlead_old_dladdr1(pc, &info, &map, RTLD_DL_LINKMAP))
		ret->link_map = map;
	return 0;
}
