/* SPDX-License-Identifier: Apache-2.0 */
#include "program.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
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
