/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAIRLEAD_EROFS_CRC_H
#define FAIRLEAD_EROFS_CRC_H

#include <stddef.h>
#include <stdint.h>

/* CRC-32C as the kernel's crc32c() has it: begun with all ones, and not inverted at the end. For a superblock only, so
 * bit by bit. */
static inline uint32_t erofs_crc32c(const unsigned char *data, size_t size)
{
	uint32_t crc = ~UINT32_C(0);

	while (size--) {
		crc ^= *data++;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? UINT32_C(0x82f63b78) : 0);
	}
	return crc;
}

#endif
