"""Attacks that take a real step: what a container can reach of those who join it, of the host's programs and files.

Rows of security.md, section 2; where the others are shown is in ``tests/unit/test_attacks.py``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import compat_images
import jobs
import pytest
from jobs import REGISTRY, SMALL, USER, output

# Tries to reach every process that appears, as fast as it can. What it can read the program of, and is none of the
# container's own, it has reached. Ends when it has met enough of those that join, or the file given first is there.
WATCH = r"""
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int met, reached;

static void look(const char *pid)
{
	static char last[32];
	char path[64], comm[32] = "", program[4096] = "";
	FILE *file;
	int mem;

	snprintf(path, sizeof(path), "/proc/%s/comm", pid);
	file = fopen(path, "r");
	if (file) {
		if (!fgets(comm, sizeof(comm), file))
			comm[0] = '\0';
		fclose(file);
	}
	if (strcmp(comm, "fairlead-enter\n") != 0)
		return;
	if (strcmp(last, pid) != 0)
		met++;
	snprintf(last, sizeof(last), "%s", pid);
	/* The right to trace, asked for without doing it: a traced process would have to be waited for. */
	snprintf(path, sizeof(path), "/proc/%s/mem", pid);
	mem = open(path, O_RDWR | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%s/exe", pid);
	if (readlink(path, program, sizeof(program) - 1) >= 0 && strstr(program, "fairlead")) { /* else not ours, or the command by now */
		reached++;
		printf("reached %s%s in %s", program, mem < 0 ? "" : " and its memory", comm);
	}
	if (mem >= 0)
		close(mem);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct dirent *entry;

	(void)argc;
	close(open(argv[2], O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	while (access(argv[1], F_OK) != 0 && met < 5) {
		DIR *dir = opendir("/proc");

		while (dir && (entry = readdir(dir)))
			if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
				look(entry->d_name);
		closedir(dir);
	}
	close(open(argv[1], O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	printf("met %s, reached %d\n", met < 5 ? "too few" : "enough", reached);
	return 0;
}
"""

# Loaded by whatever takes the image's word for it; the file lies at one path on host and in container.
LIBRARY = r"""
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

__attribute__((constructor)) static void tell(void)
{
	char name[64] = "";
	int self = open("/proc/self/comm", O_RDONLY), out = open(PLACE "/loaded", O_WRONLY | O_APPEND | O_CREAT, 0666);

	if (read(self, name, sizeof(name) - 1) > 0 && write(out, name, strlen(name)) < 0)
		_exit(9);
}

unsigned int la_version(unsigned int version)
{
	return version;
}
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory of the user's, at one path on the host and inside."""
    top = Path(tempfile.mkdtemp(prefix="fairlead-attacks-", dir="/var/tmp"))
    os.chown(top, USER.pw_uid, USER.pw_gid)
    yield top
    shutil.rmtree(top)


def build(place: Path, name: str, source: str, *flags: str) -> Path:
    (place / f"{name}.c").write_text(source)
    command = ["gcc", "-O2", *flags, "-o", f"{place}/{name}", f"{place}/{name}.c"]
    subprocess.run(command, check=True, capture_output=True)
    return place / name


def test_container_reaches_none_of_those_who_join_it(place: Path) -> None:
    """Row 10: runc CVE-2016-9962. Until it executes the command, who joins is no process that can be read or traced."""
    build(place, "watch", WATCH, "-static")
    name = f"watched{os.getpid()}"
    named = f"srun -Q -N1 -n1 --overlap --mpi=none --container={SMALL} --container-name={name}"
    script = f"""
{named} {place}/watch {place}/stop {place}/started > {place}/watched &
n=0; until test -e {place}/started || test $n -gt 300; do sleep 0.1; n=$((n+1)); done
n=0; until test -e {place}/stop || test $n -gt 100; do {named}:exec -n2 true; n=$((n+1)); done
touch {place}/stop; wait
srun -Q -N1 -n1 --overlap fairlead rm --container {name}
"""
    done = jobs.run("salloc", "-Q", "-N1", "-n4", "bash", "-c", script, timeout=300)
    assert (place / "watched").read_text() == "met enough, reached 0\n", done.stderr


def test_watcher_reaches_a_process_of_its_own_container(place: Path) -> None:
    """What the test before relies on."""
    watch = build(place, "watch", WATCH, "-static")
    shutil.copy(watch, place / "fairlead-enter")
    stop, found = f"{place}/stop2", f"{place}/control"
    script = f"""
{place}/fairlead-enter {stop} {place}/a > {place}/other &
{watch} {stop} {place}/b > {found} &
n=0; until grep -q reached {found} || test $n -gt 300; do sleep 0.1; n=$((n+1)); done
touch {stop}; wait
"""
    output(jobs.run("srun", f"--container={SMALL}", "sh", "-c", script, cwd=str(place)))
    assert (
        f"reached {place}/fairlead-enter and its memory in fairlead-enter"
        in (place / "control").read_text()
    )


def test_no_program_of_the_host_takes_the_images_libraries(place: Path) -> None:
    """Rows 26 and 38: docker CVE-2019-14271, NVIDIA CVE-2025-23266."""
    library = build(place, "evil.so", LIBRARY, "-shared", "-fPIC", f'-DPLACE="{place}"')
    (place / "loaded").touch()
    (place / "loaded").chmod(0o666)
    files = {
        **compat_images.glibc(compat_images.LOADER, f"lib/{compat_images.TRIPLET}"),
        "bin/sh": compat_images.DASH,
        "etc/ld.so.preload": b"/evil.so\n",
        **{path: compat_images.program(library.read_bytes()) for path in ("evil.so", "lib/libnss_files.so.2", "usr/lib/gconv/EVIL.so")},
    }  # fmt: skip
    names = ("LD_PRELOAD", "LD_AUDIT", "BASH_ENV")
    env = ["PATH=/bin", "GCONV_PATH=/usr/lib/gconv", *(f"{name}=/evil.so" for name in names)]
    image = compat_images.alone(files, Env=env)
    digest = compat_images.images.push(REGISTRY, "demo/evil", "1", image)
    reference = f"{REGISTRY}/demo/evil@{digest}"
    for _ in range(2):  # by the engine, then from a kept plan
        assert (
            output(jobs.run("srun", f"--container={reference}", "sh", "-c", "echo ran")) == "ran\n"
        )
    assert output(jobs.run("srun", "fairlead", "run", reference, "sh", "-c", "echo ran")) == "ran\n"
    assert set((place / "loaded").read_text().split()) == {"sh"}


@pytest.mark.parametrize("options", [(), ("--container-remap-root",)])
def test_file_that_the_group_may_not_read_stays_so(place: Path, options: tuple[str, ...]) -> None:
    """Row 30: podman CVE-2022-2989. Others may read it, the user's group may not."""
    secret = place / "secret"
    secret.write_text("for others\n")
    os.chown(secret, 0, USER.pw_gid)
    secret.chmod(0o604)
    assert jobs.run("cat", str(secret)).returncode == 1
    words = ("--container-mounts", f"{place}:/m", *options, "cat", "/m/secret")
    done = jobs.run("srun", f"--container={SMALL}", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Permission denied" in done.stderr


def test_step_leaves_mounts_and_directories_of_the_host_as_they_were(place: Path) -> None:
    """Rows 4 and 37: no new inode, no new mount."""

    def seen() -> tuple[str, list[str]]:
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            return file.read(), sorted(os.listdir("/")) + sorted(os.listdir("/etc"))

    before = seen()
    (place / "in").mkdir(exist_ok=True)
    words = (
        f"--container-mounts={place}/in:/srv/new/place,tmpfs:/t",
        "--container-unshare=net,ipc",
    )
    assert output(jobs.run("srun", "-n2", f"--container={SMALL}", *words, "true")) == ""
    assert seen() == before
    assert os.listdir(place / "in") == []
