/* SPDX-License-Identifier: Apache-2.0 */
#include "program.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#if defined(__x86_64__)
#define OWN_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define OWN_MACHINE EM_AARCH64
#elif defined(__powerpc64__)
#define OWN_MACHINE EM_PPC64
#else
#define OWN_MACHINE EM_NONE
#endif

/* A handler in binfmt_misc (qemu, java) may run what looks foreign; then the kernel has the last word. */
static int has_handlers(void)
{
	return access("/proc/sys/fs/binfmt_misc/status", F_OK) == 0;
}

static int check_script(char *text)
{
	char *interpreter = text + 2 + strspn(text + 2, " \t");

	interpreter[strcspn(interpreter, " \t\n")] = '\0';
	return *interpreter && access(interpreter, X_OK) == 0 ? 0 : -ENOEXEC;
}

static int check_elf(int fd, const char *page, size_t size)
{
	char interpreter[256];
	Elf64_Ehdr header;
	Elf64_Phdr program;
	ssize_t n;

	if (size < sizeof(header))
		return -ENOEXEC;
	memcpy(&header, page, sizeof(header));
	if (header.e_ident[EI_CLASS] != ELFCLASS64)
		return 0; /* 32-bit: whether the kernel takes it is its own affair */
	if (header.e_type != ET_EXEC && header.e_type != ET_DYN)
		return -ENOEXEC;
	if (OWN_MACHINE != EM_NONE && header.e_machine != OWN_MACHINE)
		return has_handlers() ? 0 : -ENOEXEC;
	for (unsigned int i = 0; i < header.e_phnum && i < 128; i++) {
		n = pread(fd, &program, sizeof(program), (off_t)(header.e_phoff + i * sizeof(program)));
		if (n != (ssize_t)sizeof(program))
			return -ENOEXEC;
		if (program.p_type != PT_INTERP)
			continue;
		n = pread(fd, interpreter, sizeof(interpreter) - 1, (off_t)program.p_offset);
		if (n <= 0)
			return -ENOEXEC;
		interpreter[n] = '\0';
		return access(interpreter, X_OK) == 0 ? 0 : -ENOEXEC;
	}
	return 0;
}

int program_check(const char *path)
{
	char page[4096];
	ssize_t n;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), result;

	if (fd < 0)
		return errno == EACCES ? 0 : -errno; /* execute permission without read permission is allowed */
	n = read(fd, page, sizeof(page) - 1);
	if (n < 0) {
		result = -errno;
	} else {
		page[n] = '\0';
		if (n > 2 && page[0] == '#' && page[1] == '!')
			result = check_script(page);
		else if (n >= SELFMAG && memcmp(page, ELFMAG, SELFMAG) == 0)
			result = check_elf(fd, page, (size_t)n);
		else
			result = has_handlers() ? 0 : -ENOEXEC;
	}
	close(fd);
	return result;
}

#define MAX_HEADERS 128
#define MAX_DYNAMIC 4096

static int read_at(int fd, void *ret, size_t size, uint64_t offset)
{
	return offset <= INT64_MAX && pread(fd, ret, size, (off_t)offset) == (ssize_t)size;
}

/* Where an address of the running program lies in its file; 0: nowhere. */
static uint64_t offset_of(const Elf64_Phdr *programs, unsigned int count, uint64_t address)
{
	for (unsigned int i = 0; i < count; i++)
		if (programs[i].p_type == PT_LOAD && address >= programs[i].p_vaddr &&
		    address - programs[i].p_vaddr < programs[i].p_filesz)
			return address - programs[i].p_vaddr + programs[i].p_offset;
	return 0;
}

static void find_mpi(int fd, const Elf64_Phdr *programs, unsigned int count, const Elf64_Phdr *dynamic,
		     struct program_facts *ret)
{
	uint64_t needed[256], strings = 0;
	unsigned int names = 0;
	char name[sizeof(ret->mpi)];
	Elf64_Dyn entry;
	ssize_t n;

	for (uint64_t i = 0; i < dynamic->p_filesz / sizeof(entry) && i < MAX_DYNAMIC; i++) {
		if (!read_at(fd, &entry, sizeof(entry), dynamic->p_offset + i * sizeof(entry)) || entry.d_tag == DT_NULL)
			break;
		if (entry.d_tag == DT_STRTAB)
			strings = offset_of(programs, count, entry.d_un.d_ptr);
		if (entry.d_tag == DT_NEEDED && names < 256)
			needed[names++] = entry.d_un.d_val;
	}
	for (unsigned int i = 0; strings && i < names; i++) {
		if (needed[i] > UINT32_MAX || strings > INT64_MAX / 2)
			continue;
		n = pread(fd, name, sizeof(name) - 1, (off_t)(strings + needed[i]));
		if (n <= 0)
			continue;
		name[n] = '\0';
		if (strncmp(name, "libmpi", 6) == 0) {
			memcpy(ret->mpi, name, strlen(name) + 1);
			return;
		}
	}
}

static int inspect(int fd, struct program_facts *ret)
{
	Elf64_Phdr programs[MAX_HEADERS];
	const Elf64_Phdr *dynamic = NULL;
	Elf64_Ehdr header;
	unsigned int count;

	if (!read_at(fd, &header, sizeof(header), 0) || memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
	    header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != OWN_MACHINE ||
	    (header.e_type != ET_EXEC && header.e_type != ET_DYN) || header.e_phentsize != sizeof(*programs))
		return PROGRAM_OTHER;
	count = header.e_phnum < MAX_HEADERS ? header.e_phnum : MAX_HEADERS;
	if (!read_at(fd, programs, count * sizeof(*programs), header.e_phoff))
		return PROGRAM_OTHER;
	for (unsigned int i = 0; i < count; i++) {
		if (programs[i].p_type == PT_DYNAMIC)
			dynamic = &programs[i];
		if (programs[i].p_type == PT_INTERP && (programs[i].p_filesz >= sizeof(ret->interpreter) ||
							!read_at(fd, ret->interpreter, programs[i].p_filesz, programs[i].p_offset)))
			return PROGRAM_OTHER;
	}
	if (!*ret->interpreter)
		return PROGRAM_STATIC;
	if (dynamic)
		find_mpi(fd, programs, count, dynamic, ret);
	return PROGRAM_DYNAMIC;
}

int program_inspect(const char *path, struct program_facts *ret)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	memset(ret, 0, sizeof(*ret));
	if (fd < 0)
		return errno == EACCES ? 0 : -errno; /* may be executed without being read */
	/* The loader, named as the program, would run without the rights that such a program gains. */
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && !(st.st_mode & (S_ISUID | S_ISGID)))
		ret->kind = inspect(fd, ret);
	close(fd);
	return 0;
}
