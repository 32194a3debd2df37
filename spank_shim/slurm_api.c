/* SPDX-License-Identifier: Apache-2.0 */
#include "slurm_api.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ISO C has no conversion from object to function pointer; POSIX dlsym needs one. */
static void symbol(const char *name, void *ret_function, size_t size)
{
	void *address = dlsym(RTLD_DEFAULT, name);

	memcpy(ret_function, &address, size);
}

unsigned int slurm_api_number(void)
{
	long (*version)(void);

	symbol("slurm_api_version", &version, sizeof(version));
	return version ? (unsigned int)version() >> 16 : 0;
}

unsigned int slurm_api_release(void)
{
	/* Source: slurm.md section 1; libslurm's number counts releases, first irregularly, then two a year. */
	static const unsigned int early[] = { 0x140b00, 0x150800, 0x160500, 0x170200, 0x170b00 };
	unsigned int number = slurm_api_number(), year;

	if (number < 36)
		return 0;
	if (number <= 40)
		return early[number - 36];
	year = 24 + (number - 41) / 2;
	return year << 16 | ((number - 41) % 2 ? 0x0b00 : 0x0500);
}

int slurm_api_owns_container(void)
{
	return slurm_api_number() >= 37;
}

const char *slurm_api_option(const char *name)
{
	void *options = dlsym(RTLD_DEFAULT, "opt");
	char *(*get)(void *, const char *);

	symbol("slurm_option_get", &get, sizeof(get));
	return options && get ? get(options, name) : NULL;
}

int slurm_api_is_set(const char *name)
{
	const char *value = slurm_api_option(name);

	/* Slurm answers with a word for an option that is not set, or that this command does not have. */
	return value && *value && strcmp(value, "unset") != 0 && strcmp(value, "invalid-context") != 0;
}

int slurm_api_given(int letter)
{
	void *options = dlsym(RTLD_DEFAULT, "opt");
	_Bool (*given)(void *, int);

	symbol("slurm_option_set_by_cli", &given, sizeof(given));
	return options && given && given(options, letter);
}

void slurm_api_option_reset(const char *name)
{
	void *options = dlsym(RTLD_DEFAULT, "opt");
	_Bool (*reset)(void *, const char *);

	symbol("slurm_option_reset", &reset, sizeof(reset));
	if (options && reset)
		reset(options, name);
}

int slurm_api_option_set(const char *name, const char *value)
{
	void *options = dlsym(RTLD_DEFAULT, "opt");
	int (*set)(void *, const char *, const char *, _Bool);

	symbol("slurm_option_set", &set, sizeof(set));
	return options && set && set(options, name, value, 0) == 0 ? 0 : -1;
}

int slurm_api_srun_ports(uint16_t *ret_first, uint16_t *ret_last)
{
	const uint16_t *(*range)(void), *ports;

	symbol("slurm_get_srun_port_range", &range, sizeof(range));
	ports = range ? range() : NULL;
	if (!ports || !ports[0] || ports[1] < ports[0])
		return 0;
	*ret_first = ports[0];
	*ret_last = ports[1];
	return 1;
}

char *slurm_api_strdup(const char *text)
{
	char *(*duplicate)(const char *);

	symbol("slurm_xstrdup", &duplicate, sizeof(duplicate));
	return duplicate ? duplicate(text) : strdup(text);
}

int slurm_api_has_oci_conf(const char *conf)
{
	const char *slash = conf ? strrchr(conf, '/') : NULL;
	char path[4096];

	if (slash)
		snprintf(path, sizeof(path), "%.*s/oci.conf", (int)(slash - conf), conf);
	else
		snprintf(path, sizeof(path), "/etc/slurm/oci.conf");
	return access(path, F_OK) == 0;
}

int slurm_api_prepend(spank_t spank, const char *word)
{
	spank_err_t (*prepend)(spank_t, int, const char *[]);
	const char *words[] = { word, NULL };

	symbol("spank_prepend_task_argv", &prepend, sizeof(prepend));
	if (!prepend)
		return -ENOSYS;
	return prepend(spank, 1, words) == ESPANK_SUCCESS ? 0 : -EIO;
}
