/* __libc_start_main of 2.34 and later runs the program's own constructors; before, the program brought the function for
 * it. Destructors are the loader's in every release.
 */
#include "polyfill.h"

#include <link.h>

typedef int main_t(int, char **, char **);
typedef void init_t(int, char **, char **);

OLD(int, __libc_start_main, main_t *, int, char **, init_t *, void (*)(void), void (*)(void), void *);
OLD(int, dl_iterate_phdr, int (*)(struct dl_phdr_info *, size_t, void *), void *);

struct program {
	ElfW(Addr) shift;
	const ElfW(Dyn) *dynamic;
};

static int first(struct dl_phdr_info *info, size_t size, void *data)
{
	struct program *program = data;
	int i;

	(void)size;
	program->shift = info->dlpi_addr;
	for (i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
			program->dynamic = (const void *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
	return 1; /* the first one is the program */
}

static void construct(int count, char **words, char **environment)
{
	struct program program = { 0 };
	const ElfW(Dyn) *entry;
	ElfW(Addr) init = 0, array = 0;
	size_t size = 0, i;

	fairlead_old_dl_iterate_phdr(first, &program);
	for (entry = program.dynamic; entry && entry->d_tag != DT_NULL; entry++) {
		if (entry->d_tag == DT_INIT)
			init = program.shift + entry->d_un.d_ptr;
		else if (entry->d_tag == DT_INIT_ARRAY)
			array = program.shift + entry->d_un.d_ptr;
		else if (entry->d_tag == DT_INIT_ARRAYSZ)
			size = entry->d_un.d_val / sizeof(init_t *);
	}
	if (init)
		((init_t *)init)(count, words, environment);
	for (i = 0; i < size; i++)
		((init_t **)array)[i](count, words, environment);
}

NEW(int, __libc_start_main__2_34, main_t *program, int count, char **words, init_t *init, void (*fini)(void),
    void (*loader_fini)(void), void *stack_end)
{
	return fairlead_old___libc_start_main(program, count, words, init ? init : construct, fini, loader_fini,
					      stack_end);
}
