#include "calls.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <sys/uio.h>

static void show(const char *what, int ret, const struct stat *status)
{
	if (ret < 0)
		printf("%s fails, errno %d\n", what, errno);
	else
		printf("%s %o %ld %ld %ld\n", what, status->st_mode, (long)status->st_nlink,
		       S_ISDIR(status->st_mode) ? 0 : (long)status->st_size, (long)status->st_blksize);
}

static void show64(const char *what, int ret, const struct stat64 *status)
{
	struct stat plain;

	memcpy(&plain, status, sizeof(plain));
	show(what, ret, &plain);
}

static void stats(void)
{
	struct stat s;
	struct stat64 s64;
	struct statx x;
	int fd = open("file", O_RDWR | O_CREAT | O_TRUNC, 0640);

	HOLDS(write(fd, "hello", 5) == 5);
	symlink("file", "link");
	show("stat", stat("file", &s), &s);
	show("stat dir", stat(".", &s), &s);
	show("stat absent", stat("absent", &s), &s);
	show("lstat", lstat("link", &s), &s);
	show("fstat", fstat(fd, &s), &s);
	show("fstat closed", fstat(-1, &s), &s);
	show("fstatat", fstatat(AT_FDCWD, "link", &s, AT_SYMLINK_NOFOLLOW), &s);
	show("fstatat fd", fstatat(fd, "", &s, AT_EMPTY_PATH), &s);
	show64("stat64", stat64("file", &s64), &s64);
	show64("lstat64", lstat64("link", &s64), &s64);
	show64("fstat64", fstat64(fd, &s64), &s64);
	show64("fstatat64", fstatat64(AT_FDCWD, "file", &s64, 0), &s64);
	HOLDS(statx(AT_FDCWD, "file", 0, STATX_SIZE | STATX_MODE, &x) == 0 && x.stx_size == 5 && x.stx_mode == s64.st_mode);
	TOLD(statx(AT_FDCWD, "absent", 0, STATX_SIZE, &x));
	TOLD(mknod("fifo", S_IFIFO | 0600, 0));
	TOLD(mknod("fifo", S_IFIFO | 0600, 0));
	TOLD(mknodat(AT_FDCWD, "fifo2", S_IFIFO | 0600, 0));
	TOLD(mknodat(AT_FDCWD, "big", S_IFCHR | 0600, makedev(1UL << 31, 1)));
	TOLD(renameat2(AT_FDCWD, "fifo", AT_FDCWD, "fifo2", RENAME_NOREPLACE));
	TOLD(renameat2(AT_FDCWD, "fifo", AT_FDCWD, "fifo3", RENAME_NOREPLACE));
	close(fd);
	unlink("link");
	unlink("fifo2");
	unlink("fifo3");
}

static void moves(void)
{
	int in = open("file", O_RDONLY), out = open("copy", O_RDWR | O_CREAT | O_TRUNC, 0600), i;
	char text[16] = "", big[4096];
	struct iovec vector = { text, 5 };
	off64_t at = 1;
	long size, total = 0;
	struct dirent64 *entry;

	TOLD(copy_file_range(in, &at, out, NULL, 3, 0));
	HOLDS(at == 4);
	TOLD(copy_file_range(in, NULL, -1, NULL, 3, 0));
	TOLD(preadv2(in, &vector, 1, 1, 0));
	printf("%s\n", text);
	TOLD(preadv64v2(in, &vector, 1, -1, 0));
	TOLD(pwritev2(out, &vector, 1, 2, 0));
	TOLD(pwritev64v2(out, &vector, 1, 0, 0x40000000));
	close(in);
	close(out);
	in = open(".", O_RDONLY | O_DIRECTORY);
	size = getdents64(in, big, sizeof(big));
	for (i = 0; i < size; i += entry->d_reclen) {
		entry = (struct dirent64 *)(big + i);
		total += !strcmp(entry->d_name, "file") + 2 * !strcmp(entry->d_name, "copy");
	}
	printf("getdents64 %ld\n", total);
	TOLD(getdents64(-1, big, sizeof(big)));
	close(in);
	FD(memfd_create("x", MFD_CLOEXEC));
	TOLD(memfd_create("x", 0x8000));
	unlink("copy");
	unlink("file");
}

static void closing(void)
{
#if SINCE(34)
	int a = dup2(1, 60), b = dup2(1, 61), c = dup2(1, 62);

	HOLDS(a == 60 && b == 61 && c == 62);
	TOLD(close_range(60, 60, 0));
	TOLD(fcntl(60, F_GETFD));
	TOLD(fcntl(61, F_GETFD));
	TOLD(close_range(61, 61, CLOSE_RANGE_CLOEXEC));
	TOLD(fcntl(61, F_GETFD));
	TOLD(close_range(62, 60, 0));
	TOLD(close_range(60, 62, 1 << 10));
	closefrom(61);
	TOLD(fcntl(62, F_GETFD));
#endif
#if SINCE(43)
	struct {
		unsigned long long flags, mode, resolve;
	} how = { O_RDONLY, 0, 0x08 };

	FD(openat2(AT_FDCWD, ".", (const void *)&how, sizeof(how)));
	TOLD(openat2(AT_FDCWD, "/", (const void *)&how, sizeof(how)));
	TOLD(openat2(AT_FDCWD, ".", (const void *)&how, 3));
#endif
}

void calls_files(void)
{
	stats();
	moves();
	closing();
}
