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

    def run(self, *words: str, cgroup: str = "", **job: str) -> subprocess.CompletedProcess[str]:
        become = ["setpriv", f"--reuid={UID}", f"--regid={GID}", "--clear-groups"]
        command = [sys.executable, "-m", "fairlead.cli.main", "run", *words]
        return subprocess.run(
            [str(FORGED), str(self.place), *become, *command],
            preexec_fn=lambda: _join(cgroup) if cgroup else None,
            cwd=self.user.place,
            env={**self.user.environ, **job},
            capture_output=True,
            text=True,
            timeout=120,
        )


def _join(cgroup: str) -> None:
    Path(f"{cgroup}/cgroup.procs").write_text(str(os.getpid()))


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


DEVICES_CONTROLLER = Path("/sys/fs/cgroup/devices")


@pytest.mark.skipif(
    not os.access(DEVICES_CONTROLLER / "cgroup.procs", os.W_OK),
    reason="a version 2 cgroup refuses devices by BPF, which no test here writes",
)
def test_device_cgroup_of_the_job_decides(node: Node, image: str) -> None:
    """As Slurm's ConstrainDevices: the node's mode allows, the cgroup does not."""
    cgroup = DEVICES_CONTROLLER / f"fairlead-test-{os.getpid()}"
    cgroup.mkdir()
    try:
        (cgroup / "devices.deny").write_text("c 1:5 rw")  # what the forged GPU is
        given = {"cgroup": str(cgroup), "SLURM_JOB_GPUS": "0"}
        shown = output(node.run(image, "ls", "/dev", **given)).split()
        assert "nvidiactl" in shown
        assert "nvidia0" not in shown
        done = node.run("--device=/dev/nvidia0", image, "true", cgroup=str(cgroup))
        assert "error [device]: /dev/nvidia0: you may not open it" in done.stderr
    finally:
        cgroup.rmdir()


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


def test_hooks_of_nvidias_specification_are_done_without_their_program(
    node: Node, site: Site, image: str
) -> None:
    """As ``nvidia-ctk cdi generate`` writes it: the program need not be there."""
    program = "/usr/bin/nvidia-cdi-hook"
    library, place = (
        f"{node.place}/driver/libcuda.so.{VERSION}",
        f"/opt/driver/libcuda.so.{VERSION}",
    )
    words = (
        ("create-symlinks", "--link", "libcuda.so.1::/opt/driver/gbm/libcuda.so"),
        ("update-ldcache", "--folder", "/opt/driver"),
        ("chmod", "--mode", "755", "--path", "/dev"),
    )
    path = site.cdi(
        "nvidia.json",
        deviceNodes=[{"path": "/dev/nvidia0"}],
        mounts=[{"hostPath": library, "containerPath": place, "options": ["ro", "nosuid", "bind"]}],
        hooks=[
            {"hookName": "createContainer", "path": program, "args": ["nvidia-cdi-hook", *each]}
            for each in words
        ],
    )
    path.write_text(path.read_text().replace("vendor.com/thing", "nvidia.com/gpu"))
    script = "probe; readlink /opt/driver/gbm/libcuda.so"
    for options in ((), ("--read-only",)):
        shown = output(node.run(*options, image, "sh", "-c", script, SLURM_JOB_GPUS="0"))
        assert shown == f"{VERSION}\nlibcuda.so.1\n"
    by_name = ("--gpu=none", "--device=nvidia.com/gpu=one")
    assert output(node.run(*by_name, image, "probe")) == f"{VERSION}\n"


def test_newer_cuda_libraries_of_the_image_are_used(node: Node, image: str) -> None:
    folder = Path(image) / "usr/local/cuda/compat"
    folder.mkdir(parents=True)
    newer = "1000.1.2"
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-Wl,-soname,libcuda.so.1", "-o"]
    source = f'const char *version(void) {{ return "{newer}"; }}'
    subprocess.run([*command, f"{folder}/libcuda.so.{newer}"], input=source.encode(), check=True)
    (folder / "libcuda.so.1").symlink_to(f"libcuda.so.{newer}")
    assert output(node.run(image, "probe", SLURM_JOB_GPUS="0")) == f"{newer}\n"
    (folder / f"libcuda.so.{newer}").rename(folder / "libcuda.so.998.1")
    assert output(node.run(image, "probe", SLURM_JOB_GPUS="0")) == f"{VERSION}\n"


def test_capabilities_and_demands_of_the_driver(node: Node, image: str) -> None:
    given = {"SLURM_JOB_GPUS": "0"}
    less = ("-e", "NVIDIA_DRIVER_CAPABILITIES=utility")
    assert "cannot open" in output(node.run(*less, image, "probe", **given))
    done = node.run("-e", "NVIDIA_REQUIRE_X=driver>=1000", image, "true", **given)
    assert done.returncode == 125
    assert done.stderr == (
        f"fairlead: error [device]: NVIDIA driver {VERSION} is not what "
        "NVIDIA_REQUIRE_X demands: driver>=1000 (use an image for this driver, or set "
        "NVIDIA_DISABLE_REQUIRE=1)\n"
    )


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
