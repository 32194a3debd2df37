/* SPDX-License-Identifier: Apache-2.0 */
#include "plan_key.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "plan_check.h"
#include "plan_expand.h"

#define FORMAT "1" /* raise it when the meaning of an entry changes, whatever the installation's identity says */
#define MAX_GROUPS 65536

/* Several slurmds may share a host, each with directories of its own. No proxies and certificates: nothing is fetched for a plan that is cached, and a proxy's password stays off the
 * disk. Credentials are files, named by these. */
static const char *const read_by_engine[] = { "HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "DOCKER_CONFIG",
					      "REGISTRY_AUTH_FILE", "CONTAINERS_REGISTRIES_CONF",
					      "ENROOT_CONFIG_PATH", "SLURMD_NODENAME" };

static const char *const installation[] = { "libexec/fairlead/engine.py", "libexec/fairlead/fairlead-enter",
					    "lib/fairlead/spank_fairlead.so", "bin/fairlead",
					    "venv/bin/python" };

int plan_key_wanted(char *const *environment)
{
	static const char *const yes[] = { "", "1", "true", "yes", "y" }; /* config.py; other words are its to refuse */
	const char *verbose = plan_variable(environment, "FAIRLEAD_VERBOSE", strlen("FAIRLEAD_VERBOSE"));
	const char *word = plan_variable(environment, "FAIRLEAD_PLAN_CACHE", strlen("FAIRLEAD_PLAN_CACHE"));

	if (verbose && *verbose)
		return 0;
	for (size_t i = 0; word && i < sizeof(yes) / sizeof(*yes); i++)
		if (strcasecmp(word, yes[i]) == 0)
			return 1;
	return !word;
}

static void add(FILE *out, const char *name, const char *value)
{
	fprintf(out, "%s=%s%c", name, value, 0);
}

static int add_boot(FILE *out)
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	char id[64];
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, id, sizeof(id) - 1);
	close(fd);
	if (n <= 0)
		return -EIO;
	id[n] = '\0';
	id[strcspn(id, "\n")] = '\0';
	add(out, "boot", id);
	return 0;
}

static int add_user(FILE *out)
{
	int count = getgroups(0, NULL);
	gid_t *groups = NULL;

	if (count < 0 || count > MAX_GROUPS)
		return -EINVAL;
	groups = calloc((size_t)count + 1, sizeof(*groups));
	if (!groups)
		return -ENOMEM;
	count = getgroups(count, groups);
	fprintf(out, "ids=%u:%u:%u:%u%c", getuid(), geteuid(), getgid(), getegid(), 0);
	fprintf(out, "groups=");
	for (int i = 0; i < count; i++)
		fprintf(out, "%u,", groups[i]);
	fputc(0, out);
	free(groups);
	return count < 0 ? -EINVAL : 0;
}

static void add_installation(FILE *out, const char *prefix)
{
	char path[PATH_MAX], witness[PLAN_WITNESS_SIZE];

	add(out, "prefix", prefix);
	for (size_t i = 0; i < sizeof(installation) / sizeof(*installation); i++) {
		snprintf(path, sizeof(path), "%s/%s", prefix, installation[i]);
		plan_witness(path, 0, witness);
		add(out, installation[i], witness);
	}
}

static void add_environment(FILE *out, char *const *environment)
{
	const char *value;

	for (size_t i = 0; i < sizeof(read_by_engine) / sizeof(*read_by_engine); i++) {
		value = plan_variable(environment, read_by_engine[i], strlen(read_by_engine[i]));
		if (value)
			add(out, read_by_engine[i], value);
	}
	for (; *environment; environment++)
		if (strncmp(*environment, "FAIRLEAD_", strlen("FAIRLEAD_")) == 0)
			fprintf(out, "%s%c", *environment, 0);
}

int plan_key_add(FILE *out, const char *prefix, char *const *environment)
{
	struct utsname host;
	int err;

	if (uname(&host) < 0)
		return -errno;
	add(out, "format", FORMAT);
	add(out, "host", host.nodename);
	err = add_boot(out);
	if (!err)
		err = add_user(out);
	add_installation(out, prefix);
	add_environment(out, environment);
	return err ? err : ferror(out) ? -EIO : 0;
}
