/* SPDX-License-Identifier: Apache-2.0
 *
 * Everything read here was mapped and checked by the loader, which would have refused damaged tables. */
#include "object.h"

#include <elf.h>
#include <link.h>
#include <stddef.h>

#define HIDDEN __attribute__((visibility("hidden")))

/* glibc and musl both have it since long before they could run this; weak, so that no C library is named. */
extern __typeof__(dl_iterate_phdr) dl_iterate_phdr __attribute__((weak));
HIDDEN extern const char __ehdr_start[];

int text_equal(const char *one, const char *other)
{
	while (*one && *one == *other)
		one++, other++;
	return *one == *other;
}

int text_begins(const char *text, const char *with)
{
	while (*with && *text == *with)
		text++, with++;
	return !*with;
}

static uintptr_t own_base(void)
{
	return (uintptr_t)__ehdr_start;
}

/* glibc has added the base to the addresses in the table already, musl and the vdso have not. */
static void *pointer(const struct object *object, ElfW(Addr) value)
{
	return (void *)(value < object->base ? value + object->base : value);
}

static void *entry(const struct object *object, ElfW(Sxword) tag)
{
	for (const ElfW(Dyn) *at = object->dynamic; at && at->d_tag != DT_NULL; at++)
		if (at->d_tag == tag)
			return pointer(object, at->d_un.d_ptr);
	return NULL;
}

static void describe(const struct dl_phdr_info *info, struct object *ret)
{
	const char *strings;

	ret->base = info->dlpi_addr;
	ret->path = info->dlpi_name ? info->dlpi_name : "";
	ret->soname = "";
	ret->dynamic = NULL;
	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
			ret->dynamic = (void *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
	strings = entry(ret, DT_STRTAB);
	for (const ElfW(Dyn) *at = ret->dynamic; strings && at && at->d_tag != DT_NULL; at++)
		if (at->d_tag == DT_SONAME)
			ret->soname = strings + at->d_un.d_val;
}

static int holds(const struct dl_phdr_info *info, const void *address)
{
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
		uintptr_t begin = info->dlpi_addr + segment->p_vaddr;

		if (segment->p_type == PT_LOAD && (uintptr_t)address >= begin && (uintptr_t)address < begin + segment->p_memsz)
			return 1;
	}
	return 0;
}

static int matches(const ElfW(Sym) *symbol, const char *strings, const char *name)
{
	return symbol->st_shndx != SHN_UNDEF && text_equal(strings + symbol->st_name, name);
}

static const ElfW(Sym) *in_gnu_hash(const uint32_t *table, const ElfW(Sym) *symbols, const char *strings, const char *name)
{
	uint32_t buckets = table[0], first = table[1], bloom = table[2], hash = 5381, index;
	const uint32_t *bucket = (const uint32_t *)((const ElfW(Addr) *)(table + 4) + bloom);
	const uint32_t *chain = bucket + buckets;

	for (const unsigned char *c = (const unsigned char *)name; *c; c++)
		hash = hash * 33 + *c;
	index = buckets ? bucket[hash % buckets] : 0;
	if (index < first || !index)
		return NULL;
	for (;; index++) {
		if ((chain[index - first] | 1) == (hash | 1) && matches(&symbols[index], strings, name))
			return &symbols[index];
		if (chain[index - first] & 1)
			return NULL;
	}
}

static const ElfW(Sym) *in_hash(const uint32_t *table, const ElfW(Sym) *symbols, const char *strings, const char *name)
{
	uint32_t buckets = table[0], hash = 0, high;

	for (const unsigned char *c = (const unsigned char *)name; *c; c++) {
		hash = (hash << 4) + *c;
		high = hash & 0xf0000000;
		hash = (hash ^ (high >> 24)) & ~high;
	}
	for (uint32_t i = buckets ? table[2 + hash % buckets] : 0; i; i = table[2 + buckets + i])
		if (matches(&symbols[i], strings, name))
			return &symbols[i];
	return NULL;
}

void *object_symbol(const struct object *object, const char *name)
{
	const ElfW(Sym) *symbols = entry(object, DT_SYMTAB), *found = NULL;
	const uint32_t *gnu = entry(object, DT_GNU_HASH), *hash = entry(object, DT_HASH);
	const char *strings = entry(object, DT_STRTAB);
	void *address;

	if (!symbols || !strings)
		return NULL;
	if (gnu)
		found = in_gnu_hash(gnu, symbols, strings, name);
	else if (hash)
		found = in_hash(hash, symbols, strings, name);
	if (!found)
		return NULL;
	address = (void *)(object->base + found->st_value);
	if (ELF64_ST_TYPE(found->st_info) == STT_GNU_IFUNC)
		address = ((void *(*)(void))address)();
	return address;
}

struct search {
	const char *name;
	const void *caller;
	struct object caller_object, found;
	int passed, before;
	void *address, *preferred;
	int (*visit)(const struct object *, void *);
	void *data;
};

static int asks_for(const struct object *object, const char *soname)
{
	const char *strings = entry(object, DT_STRTAB), *name, *base;

	for (const ElfW(Dyn) *at = object->dynamic; strings && *soname && at && at->d_tag != DT_NULL; at++) {
		if (at->d_tag != DT_NEEDED)
			continue;
		base = name = strings + at->d_un.d_val;
		for (; *name; name++)
			if (*name == '/')
				base = name + 1;
		if (text_equal(base, soname))
			return 1;
	}
	return 0;
}

static int find_caller(struct dl_phdr_info *info, size_t size, void *data)
{
	struct search *search = data;

	(void)size;
	if (!holds(info, search->caller))
		return 0;
	describe(info, &search->caller_object);
	return 1;
}

static int find_next(struct dl_phdr_info *info, size_t size, void *data)
{
	struct search *search = data;
	struct object object;
	void *address;
	int wanted;

	(void)size;
	if (info->dlpi_addr == own_base()) {
		search->passed = 1;
		return 0;
	}
	if (!search->passed)
		return 0;
	describe(info, &object);
	address = object_symbol(&object, search->name);
	/* Of the program itself the loader's own order is the answer: a tool between it and MPI comes first. */
	wanted = address && *search->caller_object.path && asks_for(&search->caller_object, object.soname);
	if (address && (!search->address || (wanted && !search->preferred))) {
		search->address = address;
		search->found = object;
	}
	if (wanted)
		search->preferred = address;
	return wanted;
}

void *object_next(const char *name, const void *caller, struct object *ret_object)
{
	struct search search = { .name = name, .caller = caller };

	if (!dl_iterate_phdr)
		return NULL;
	dl_iterate_phdr(find_caller, &search);
	dl_iterate_phdr(find_next, &search);
	if (ret_object)
		*ret_object = search.found;
	return search.address;
}

static int find_each(struct dl_phdr_info *info, size_t size, void *data)
{
	struct search *search = data;
	struct object object;

	(void)size;
	if (info->dlpi_addr == own_base())
		return search->before;
	describe(info, &object);
	search->address = object_symbol(&object, search->name);
	if (!search->address)
		return 0;
	return search->visit ? search->visit(&object, search->data) : 1;
}

void *object_first(const char *name)
{
	struct search search = { .name = name };

	if (dl_iterate_phdr)
		dl_iterate_phdr(find_each, &search);
	return search.address;
}

int object_each(const char *name, int (*visit)(const struct object *object, void *data), void *data)
{
	struct search search = { .name = name, .visit = visit, .data = data };

	return dl_iterate_phdr ? dl_iterate_phdr(find_each, &search) : 0;
}

int object_each_before(const char *name, int (*visit)(const struct object *object, void *data), void *data)
{
	struct search search = { .name = name, .visit = visit, .data = data, .before = 1 };

	return dl_iterate_phdr ? dl_iterate_phdr(find_each, &search) : 0;
}
