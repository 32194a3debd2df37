"""The last resort: the host's glibc over an image's, where the host's MPI cannot be bound to that."""

import glob
import os
import re
import shutil
import subprocess

import jobs
import pytest
from jobs import BULLSEYE, error_lines, output, srun

pytestmark = pytest.mark.host_mpi("openmpi", 4)  # whose library is taken apart

LIBRARIES = "/usr/lib/x86_64-linux-gnu"
# What an older pthread_create would have to carry out: never bound to an older glibc.
SHIM = """
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
int shim(pthread_attr_t *attr, const sigset_t *mask) { return pthread_attr_setsigmask_np(attr, mask); }
"""
WHY = (
    "pthread_attr_setsigmask_np@GLIBC_2.32 (libopen-rte.so.40) cannot be had on GLIBC_2.31: "
    "an older pthread_create does not read it"
)
WARNING = (
    "fairlead: the host's GLIBC_2.36 stands over the image's GLIBC_2.31 (mpi_glibc = \"swap\"): in "
    "the container ldd and linking programs fail, locales and modules of iconv and NSS that are the "
    "image's may"
)
LOOK = """
getconf GNU_LIBC_VERSION
ldd /bin/ls >/dev/null 2>&1 && echo ldd works || echo ldd fails
LC_ALL=C.UTF-8 locale charmap
printf '\\344' | iconv -f latin1 -t utf-8
echo
getent passwd root
/sbin/ldconfig -p | grep -c libc.so.6
bash -c 'echo bash'
"""


@pytest.fixture(scope="module")
def unbindable():
    """bookworm's OpenMPI, with a library of its closure that asks for what no older glibc can do."""
    place = f"/srv/fairlead-swap-{os.getpid()}"
    os.makedirs(place)
    for path in glob.glob(f"{LIBRARIES}/libmpi*.so.40"):
        shutil.copy(path, place)
    with open(f"{LIBRARIES}/libopen-rte.so.40", "rb") as file:
        data = file.read()
    with open(f"{place}/libopen-rtx.so.40", "wb") as file:  # under a SONAME of as many letters
        file.write(data.replace(b"libopen-rte.so.40\0", b"libopen-rtx.so.40\0"))
    flags = "-shared -fPIC -Wl,-soname,libopen-rte.so.40,--no-as-needed,--allow-shlib-undefined"
    command = ["gcc", "-x", "c", "/dev/stdin", "-x", "none", *flags.split()]
    command += [f"{place}/libopen-rtx.so.40", "-o", f"{place}/libopen-rte.so.40"]
    subprocess.run(command, input=SHIM, text=True, check=True)
    subprocess.run(["chmod", "-R", "a+rX", place], check=True)
    yield place
    shutil.rmtree(place)


def launch(place, *words, **variables):
    return srun("--nodelist=n1", *words, container=BULLSEYE, LD_LIBRARY_PATH=place, **variables)


def test_without_the_setting_the_images_own_runs_and_the_symbol_is_named(unbindable):
    result = launch(unbindable, "--mpi=pmix", "-n2", "./hello_mpi")
    assert output(result).count("the image's own MPI") == 2
    assert WHY in result.stderr
    refused = launch(unbindable, "--mpi=pmix", "-n2", "--container-mpi=host", "./hello_mpi")
    assert refused.returncode == 125
    (line,) = error_lines(refused)
    name = BULLSEYE.removesuffix(":1")  # with its digest behind it
    assert line.startswith(f"fairlead: error [mpi]: the host's MPI cannot run in {name}")
    assert f": host OpenMPI 4.1.4: {WHY}" in line


def test_host_mpi_runs_on_the_hosts_glibc_with_a_warning(unbindable):
    result = launch(unbindable, "--mpi=pmix", "-n2", "./hello_mpi", FAIRLEAD_MPI_GLIBC="swap")
    shown = output(result)
    assert shown.count("Open MPI v4.1.4, the host's MPI: /.fairlead/mpi/openmpi-4/lib/") == 2
    assert result.stderr.count("fairlead: ") - result.stderr.count("fairlead: pulling") == 1
    assert WARNING in result.stderr.splitlines()


def test_what_breaks_in_the_container_and_what_does_not(unbindable):
    """Of mpi.md section 8: ldd, locale, and what goes through gconv and NSS; ldd alone is lost here."""
    look = ("--mpi=pmix", "-n1", "sh", "-c", LOOK)
    bound = output(launch(unbindable, *look)).splitlines()
    swapped = output(launch(unbindable, *look, FAIRLEAD_MPI_GLIBC="swap")).splitlines()
    assert bound[:2] == ["glibc 2.31", "ldd works"]
    assert swapped[:2] == ["glibc 2.36", "ldd fails"]
    assert swapped[2:] == bound[2:]
    assert bound[2:5] == ["UTF-8", "ä", "root:x:0:0:root:/root:/bin/bash"]
    again = output(srun("--nodelist=n1", "getconf", "GNU_LIBC_VERSION", container=BULLSEYE))
    assert again == "glibc 2.31\n"


def test_image_that_can_be_bound_to_is_not_swapped():
    result = srun(
        "--mpi=pmix", "-n2", "--nodelist=n1", "sh", "-c", "getconf GNU_LIBC_VERSION; ./hello_mpi",
        container=BULLSEYE, FAIRLEAD_MPI_GLIBC="swap",
    )  # fmt: skip
    assert re.findall(r"^glibc .*", output(result), re.MULTILINE) == ["glibc 2.31"] * 2
    assert "stands over" not in result.stderr
    assert "the host's MPI" in result.stdout


def test_setting_that_is_neither_is_refused():
    result = srun("true", container=jobs.SMALL, FAIRLEAD_MPI_GLIBC="replace")
    assert result.returncode == 125
    (line,) = error_lines(result)
    assert line.startswith("fairlead: error [config]: $FAIRLEAD_MPI_GLIBC: mpi_glibc")
