"""What the plugin takes out of a step's environment, in slurmstepd, which has to go on."""

import os
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Stands for slurmstepd, whose unsetenv says success also of what is not there.
PROGRAM = r"""
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "component.h"
#include "options.h"
#include "seal.h"
#include "slurm_api.h"
static char **job;
spank_err_t spank_get_item(spank_t s, spank_item_t i, ...)
{
	va_list list;

	(void)s;
	va_start(list, i);
	*va_arg(list, char ***) = job;
	va_end(list);
	return ESPANK_SUCCESS;
}
spank_err_t spank_unsetenv(spank_t s, const char *name)
{
	size_t size = strlen(name);
	char **to = job;

	(void)s;
	for (char **at = job; *at; at++)
		if (strncmp(*at, name, size) != 0 || (*at)[size] != '=')
			*to++ = *at;
	*to = NULL;
	return ESPANK_SUCCESS;
}
spank_err_t spank_setenv(spank_t s, const char *n, const char *v, int o) { (void)s, (void)n, (void)v, (void)o; return ESPANK_SUCCESS; }
void options_each_variable(void (*f)(const char *, void *), void *c) { (void)f, (void)c; }
void options_begin_again(void) {}
const char *options_value_in(char *const *e, const char *n) { (void)e, (void)n; return NULL; }
int slurm_api_is_set(const char *n) { (void)n; return 0; }
const char *slurm_api_option(const char *n) { (void)n; return NULL; }
int slurm_api_option_set(const char *n, const char *v) { (void)n, (void)v; return 0; }
const char *seal_open(const char *w) { (void)w; return NULL; }
int main(int argc, char *argv[])
{
	(void)argc;
	job = argv + 1;
	component_take(NULL);
	printf("%d", component_is_lost());
	for (char **at = job; *at; at++)
		printf("\n%s", *at);
	return 0;
}
"""


def test_no_variable_of_the_job_holds_slurmstepd_up(tmp_path):
    (tmp_path / "test.c").write_text(PROGRAM)
    flags = ["-std=gnu17", "-D_GNU_SOURCE", "-Ispank_shim", "-Ic_ext"]
    sources = [str(tmp_path / "test.c"), "spank_shim/component.c"]
    program = str(tmp_path / "take")
    subprocess.run(["gcc", *flags, "-o", program, *sources], cwd=ROOT, check=True)
    others = ["SLURM_FAIRLEAD_0bare", f"SLURM_FAIRLEAD_0{'a' * 200}=1", "A=b"]
    ours = ["SLURM_FAIRLEAD_0_REF=x", "SLURM_FAIRLEAD_12_REF=y", "SLURM_FAIRLEAD_0_REF=z"]

    found = subprocess.run(
        [program, *ours, *others], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.split("\n") == ["1", *others]
    found = subprocess.run(
        [program, *others], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.split("\n") == ["0", *others]
