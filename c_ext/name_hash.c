/* SPDX-License-Identifier: Apache-2.0 */
#include "name_hash.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/random.h>

#define ROTATE(x, n) ((x) << (n) | (x) >> (64 - (n)))

static void sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[2] += v[3];
	v[1] = ROTATE(v[1], 13) ^ v[0];
	v[3] = ROTATE(v[3], 16) ^ v[2];
	v[0] = ROTATE(v[0], 32);
	v[2] += v[1];
	v[0] += v[3];
	v[1] = ROTATE(v[1], 17) ^ v[2];
	v[3] = ROTATE(v[3], 21) ^ v[0];
	v[2] = ROTATE(v[2], 32);
}

uint64_t name_hash(const uint64_t key[2], uint64_t id, const char *name, size_t size)
{
	uint64_t v[4] = { key[0] ^ UINT64_C(0x736f6d6570736575), key[1] ^ UINT64_C(0x646f72616e646f6d),
			  key[0] ^ UINT64_C(0x6c7967656e657261), key[1] ^ UINT64_C(0x7465646279746573) };
	uint64_t word = id;
	bool last = false;

	for (size_t at = 0;; at += sizeof(word)) {
		v[3] ^= word;
		sip_round(v);
		v[0] ^= word;
		if (last)
			break;
		last = size - at < sizeof(word);
		word = last ? (uint64_t)size << 56 : 0;
		memcpy(&word, name + at, last ? size - at : sizeof(word));
	}
	v[2] ^= 0xff;
	for (int i = 0; i < 3; i++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

int name_hash_key(uint64_t ret_key[2])
{
	ssize_t size = getrandom(ret_key, 2 * sizeof(*ret_key), 0);

	if (size < 0)
		return -errno;
	return size == (ssize_t)(2 * sizeof(*ret_key)) ? 0 : -EIO;
}
