"""GPUs on a node that is forged in all that discovery reads: real devices, libraries, caches and mounts, no real GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ordinary import GID, UID, User
from site_directory import Site, box, site_directory

FORGED = Path(__file__).with_name("forged_gpu_node")
TRIPLET = f"{os.uname().machine}-linux-gnu"
VERSION = "999.12.3"
PROBE = """
#include <dlfcn.h>
#include <stdio.h>
int main(void)
{
	void *driver = dlopen("libcuda.so.1", RTLD_NOW);
	const char *(*version)(void) = driver ? (const char *(*)(void))dlsym(driver, "version") : NULL;

	puts(version ? version() : dlerror());
	return 0;
}
"""


@pytest.fixture
def site(user: User) -> Iterator[Site]:
    with site_directory() as made:
        user.environ["FAIRLEAD_SITE_CONFIG"] = str(made.place / "fairlead.toml")
        yield made


@pytest.fixture
def image(user: User) -> str:
    """A root of busybox with this machine's glibc and a program that loads libcuda."""
    root = box(user)
    libraries = Path(root) / "usr/lib" / TRIPLET
    libraries.mkdir(parents=True)
    (Path(root) / "lib").symlink_to("usr/lib")
    (Path(root) / "lib64").mkdir()
    program = f"{root}/bin/probe"
    subprocess.run(["gcc", "-x", "c", "-", "-o", program, "-ldl"], input=PROBE.encode(), check=True)
    shown = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for word in shown.split():
        if word.startswith("/"):
            target = Path(root) / "lib64" if "ld-linux" in word else libraries
            shutil.copy(word, target)
    for path in Path(root).rglob("*"):
        os.chown(path, UID, GID, follow_symlinks=False)
    return root


class Node:
    def __init__(self, user: User, site: Site) -> None:
        self.user, self.place = user, site.place / "node"
        self.place.mkdir()

    def run(self, *words: str, **job: str) -> subprocess.CompletedProcess[str]:
        become = ["setpriv", f"--reuid={UID}", f"--regid={GID}", "--clear-groups"]
        command = [sys.executable, "-m", "fairlead.cli.main", "run", *words]
        return subprocess.run(
            [str(FORGED), str(self.place), *become, *command],
            cwd=self.user.place,
            env={**self.user.environ, **job},
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture
def node(user: User, site: Site) -> Node:
    return Node(user, site)


def output(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


DEVICES = ("sh", "-c", "ls /dev /dev/infiniband; head -c 1 /dev/nvidia0 | cat -v")


def test_job_with_gpus_gets_devices_and_driver(node: Node, image: str) -> None:
    assert output(node.run(image, "probe", SLURM_JOB_GPUS="0")) == f"{VERSION}\n"
    shown = output(node.run(image, *DEVICES, SLURM_JOB_GPUS="0"))
    assert {"nvidia0", "nvidiactl"} <= set(shown.split())
    assert "nvidia1" not in shown  # another job's
    assert shown.endswith("^@")


def test_job_without_gpus_gets_none_and_the_fast_network_always(node: Node, image: str) -> None:
    shown = output(node.run(image, "ls", "/dev", "/dev/infiniband")).split()
    assert {"uverbs0", "xpmem"} <= set(shown)
    assert not {"nvidia0", "nvidiactl", "issm0"} & set(shown)
    assert "libcuda.so.1: cannot open" in output(node.run(image, "probe"))


def test_options_and_variables_decide(node: Node, image: str) -> None:
    assert output(node.run("--gpu=all", image, "probe")) == f"{VERSION}\n"
    assert output(node.run("-e", "NVIDIA_VISIBLE_DEVICES=0", image, "probe")) == f"{VERSION}\n"
    assert output(node.run(image, "probe", NVIDIA_VISIBLE_DEVICES="all")) == f"{VERSION}\n"
    assert "cannot open" in output(node.run("--gpu=none", image, "probe", SLURM_JOB_GPUS="0"))


def test_gpu_of_another_job_is_refused_by_name(node: Node, image: str) -> None:
    done = node.run(image, "probe", NVIDIA_VISIBLE_DEVICES="1")
    assert done.returncode == 125
    assert done.stderr == (
        "fairlead: error [device]: NVIDIA_VISIBLE_DEVICES: GPU '1' is not one that you may open "
        "(there are 0 (no UUID))\n"
    )


def test_libraries_of_an_old_driver_in_the_image_are_covered(node: Node, image: str) -> None:
    libraries = Path(image) / "usr/lib" / TRIPLET
    old = libraries / "libcuda.so.470.1"
    old.write_bytes(b"no library")
    (libraries / "libcuda.so.1").symlink_to(old.name)
    assert output(node.run(image, "probe", SLURM_JOB_GPUS="0")) == f"{VERSION}\n"
    assert old.read_bytes() == b"no library"


@pytest.mark.parametrize("readonly", [(), ("--read-only",)])
def test_image_stays_as_it_is(node: Node, image: str, readonly: tuple[str, ...]) -> None:
    before = sorted(str(path) for path in Path(image).rglob("*"))
    assert output(node.run(*readonly, image, "probe", SLURM_JOB_GPUS="0")) == f"{VERSION}\n"
    assert sorted(str(path) for path in Path(image).rglob("*")) == before


@pytest.mark.parametrize("way", ["{}", "../../../../../../../..{}", "/proc/self/root{}"])
def test_driver_never_leaves_the_root(node: Node, user: User, image: str, way: str) -> None:
    """Row 38 (CVE-2024-0132, 2025-23266): the image turns its directories into links.

    To a directory in which the user may write, so that a way out would leave something there.
    """
    outside = Path(user.place) / "outside"
    outside.mkdir()
    os.chown(outside, UID, GID)
    libraries = Path(image) / "usr/lib" / TRIPLET
    for name in os.listdir(libraries):
        shutil.copy(libraries / name, outside / name)
    before = sorted(os.listdir(outside))
    shutil.rmtree(libraries)
    libraries.symlink_to(way.format(outside))
    (Path(image) / "usr/local/cuda").mkdir(parents=True)
    (Path(image) / "usr/local/cuda/compat").symlink_to(way.format(outside))
    node.run(image, "true", SLURM_JOB_GPUS="0")
    node.run("--no-home", image, "true", SLURM_JOB_GPUS="0")
    assert sorted(os.listdir(outside)) == before


def test_cdi_specification_of_nvidia_comes_first(node: Node, site: Site, image: str) -> None:
    path = site.cdi("nvidia.json", env=["FROM=cdi"], deviceNodes=[{"path": "/dev/nvidia0"}])
    path.write_text(path.read_text().replace("vendor.com/thing", "nvidia.com/gpu"))
    shown = output(node.run(image, "sh", "-c", "echo $FROM; ls /dev", SLURM_JOB_GPUS="0")).split()
    assert shown[0] == "cdi"
    assert "nvidia0" in shown
    assert "nvidiactl" not in shown


def test_node_without_gpus_says_so(user: User, site: Site, image: str) -> None:
    if os.path.exists("/dev/dri") or os.path.exists("/sys/module/nvidia"):
        return  # this machine has some
    done = user.run("run", "--gpu=all", image, "true")
    assert done.returncode == 125
    assert done.stderr == (
        "fairlead: error [device]: GPUs: this node has no driver of an NVIDIA, AMD or Intel GPU "
        '(set gpu = "auto" or "none" (FAIRLEAD_GPU))\n'
    )
    user.environ["SLURM_JOB_GPUS"] = "0"
    done = user.run("run", image, "true")
    assert done.returncode == 0
    assert "the job has GPUs, but this node has no driver of an NVIDIA" in done.stderr
