/* SPDX-License-Identifier: Apache-2.0 */
#include "broker_loop.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define LOOP_TRIES 64

/* Bind one device. It must be open for writing to be configured as writable; a kernel that protects mounted devices
 * (CONFIG_BLK_DEV_WRITE_MOUNTED=n) mounts none that somebody has open so: hence the second descriptor. */
static int configure(const char *path, const struct loop_config *config)
{
	int mode = config->info.lo_flags & LO_FLAGS_READ_ONLY ? O_RDONLY : O_RDWR, err = 0, reading = -1;
	int device = open(path, mode | O_CLOEXEC);

	if (device < 0)
		return -errno;
	if (ioctl(device, LOOP_CONFIGURE, config) < 0) {
		err = -errno;
	} else {
		reading = open(path, O_RDONLY | O_CLOEXEC);
		err = reading < 0 ? -errno : 0;
	}
	close(device);
	return err ? err : reading;
}

/* Another process may take the free device first, hence the tries. */
int loop_attach(int fd, unsigned int flags, char *ret_path, size_t size)
{
	struct loop_config config = { .fd = (unsigned int)fd, .info = { .lo_flags = flags | LO_FLAGS_AUTOCLEAR } };
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), device = -EBUSY;

	if (control < 0)
		return -errno;
	if (!(flags & LO_FLAGS_READ_ONLY))
		config.block_size = 4096; /* one block of the file system, and enough for any disk's direct I/O */
	for (int i = 0; i < LOOP_TRIES && device == -EBUSY; i++) {
		int number = ioctl(control, LOOP_CTL_GET_FREE);

		if (number < 0) {
			device = -errno;
			break;
		}
		snprintf(ret_path, size, "/dev/loop%d", number);
		device = configure(ret_path, &config);
	}
	close(control);
	return device;
}
