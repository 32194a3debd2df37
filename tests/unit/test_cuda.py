"""What NVIDIA's variables and hooks mean: capabilities, requirements, MIG, newer CUDA libraries, CDI's hooks."""

from __future__ import annotations

import os

import elf_forge
import gpu_forge
import pytest
from gpu_forge import FOLDER, VERSION

from fairlead import errors
from fairlead.host import devices, gpu, hooks
from fairlead.plan import cuda, driver, edits, mounts, nvidiahooks
from fairlead.plan import gpu as plan_gpu
from fairlead.run import gpu as run_gpu
from fairlead.run import view


@pytest.fixture(autouse=True)
def _forged_devices(monkeypatch):
    monkeypatch.setattr(devices, "look", gpu_forge.look)


@pytest.fixture
def node(tmp_path):
    root = str(tmp_path / "node")
    gpu_forge.nvidia(root)
    return root


@pytest.fixture
def here(node, monkeypatch):
    """This node is the forged one, without a CDI specification."""
    nvidia, render = gpu.nvidia, gpu.render
    monkeypatch.setattr(gpu, "nvidia", lambda: nvidia(node))
    monkeypatch.setattr(gpu, "render", lambda: render(node))
    monkeypatch.setattr(gpu, "nvidia_version", lambda root="": VERSION)
    return node


@pytest.fixture
def image(tmp_path):
    root = str(tmp_path / "image")
    elf_forge.library(f"{root}{FOLDER}/libc.so.6")
    return root


class Config:
    cdi_dirs = ()


def launched(image, wanted=None, job=None, own=None, of_image=None):
    return run_gpu.edits(
        wanted or plan_gpu.Wish("job"),
        job or {},
        Config,
        view.View("/nowhere", image),
        cuda.Told(own or {}, of_image or {}),
    )


def line(call):
    with pytest.raises(errors.DeviceError) as caught:
        call()
    return caught.value.line()


# -- capabilities ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "image", "wanted"),
    [
        (None, None, cuda.EVERYTHING),
        ("all", "compute", cuda.EVERYTHING),
        (None, "compute,utility", {"compute", "utility"}),
        ("utility", "compute", {"utility"}),
        (" video , display", None, {"video", "display", "graphics"}),
        ("", "compute", cuda.EVERYTHING),
    ],
)
def test_capabilities_are_the_users_else_the_images(own, image, wanted):
    told = cuda.Told(
        {} if own is None else {cuda.CAPABILITIES: own},
        {} if image is None else {cuda.CAPABILITIES: image},
    )
    assert cuda.capabilities(told) == (wanted, ())


def test_word_that_is_no_capability_is_an_error_of_the_user_and_a_note_of_the_image():
    assert line(lambda: cuda.capabilities(cuda.Told({cuda.CAPABILITIES: "compute,x"}, {}))) == (
        "error [device]: NVIDIA_DRIVER_CAPABILITIES: 'x' is not one of all, compat32, compute, "
        "display, graphics, ngx, utility, video "
        "(check the name, and that the job was given the device)"
    )
    assert cuda.capabilities(cuda.Told({}, {cuda.CAPABILITIES: "compute,x"})) == (
        {"compute"},
        ("the image's NVIDIA_DRIVER_CAPABILITIES: 'x' is not known",),
    )


@pytest.mark.parametrize(
    ("wanted", "there", "absent"),
    [
        ("compute", {"libcuda.so.1", "nvidia-cuda-mps-control", "nvidia.icd"},
         {"libnvidia-ml.so.1", "nvidia-smi", f"libnvidia-glcore.so.{VERSION}", "libnvidia-opticalflow.so.1"}),
        ("utility", {"libnvidia-ml.so.1", "nvidia-smi"},
         {"libcuda.so.1", "nvidia-cuda-mps-control", "nvidia.icd"}),
        ("video", {"libnvidia-opticalflow.so.1"}, {"libcuda.so.1", "nvidia-smi"}),
        ("graphics", {f"libnvidia-glcore.so.{VERSION}"}, {"libcuda.so.1"}),
    ],
)  # fmt: skip
def test_container_gets_the_files_of_its_capabilities(here, image, wanted, there, absent):
    made = launched(image, own={cuda.CAPABILITIES: wanted})
    names = {mount.destination.rpartition("/")[2] for mount in made.mounts}
    assert there <= names
    assert not absent & names
    assert {"nvidia0", "nvidiactl", "socket"} <= names  # everybody's


def test_library_that_no_list_knows_comes_along():
    assert cuda.has_library("libnvidia-new.so.1", frozenset({"utility"}))


# -- requirements ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "version", "fine"),
    [
        ("cuda>=12.4", "550.54.14", True),
        ("cuda>=12.5", "550.54.14", False),
        ("cuda>=12.5", "555.42", True),
        ("cuda>=99.0", "999.1", True),  # newer than the table: not known
        ("cuda>=99.0", "580.1", False),
        ("cuda>=12.4 driver>=550", "550.1", True),
        ("cuda>=12.6 driver>=551", "550.1", False),
        ("cuda>=12.6 brand=tesla,driver>=550,driver<551", "550.1", True),  # brand: not known
        ("cuda>=12.6 brand=tesla,driver>=470,driver<471", "550.1", False),
        ("driver=550", "550.54.14", True),
        ("driver!=550", "550.54.14", False),
        ("driver>550", "550.54.14", False),
        ("driver<=550.54", "550.54.14", True),
        ("arch>=8.0", "550.1", True),
        ("nonsense", "550.1", True),
        ("cuda>=x", "550.1", True),
        ("", "550.1", True),
        ("cuda>=9.0", "300.1", True),  # older than the table: not known
    ],
)
def test_requirement_that_certainly_does_not_hold_is_refused(text, version, fine):
    for told in (
        cuda.Told({}, {"NVIDIA_REQUIRE_CUDA": text}),
        cuda.Told({"NVIDIA_REQUIRE_X": text}, {}),
    ):
        if fine:
            cuda.check_required(told, version)
        else:
            with pytest.raises(errors.DeviceError, match="demands"):
                cuda.check_required(told, version)


def test_requirement_is_told_and_may_be_switched_off():
    told = cuda.Told({}, {"NVIDIA_REQUIRE_CUDA": "cuda>=12.8 brand=x,driver<1"})
    assert line(lambda: cuda.check_required(told, "550.54.14")) == (
        "error [device]: NVIDIA driver 550.54.14 (CUDA 12.4) is not what NVIDIA_REQUIRE_CUDA "
        "demands: cuda>=12.8 (use an image for this driver, or set NVIDIA_DISABLE_REQUIRE=1)"
    )
    for value in ("1", "true"):
        cuda.check_required(told._replace(own={"NVIDIA_DISABLE_REQUIRE": value}), "550.54.14")
    with pytest.raises(errors.DeviceError):
        cuda.check_required(told._replace(own={"NVIDIA_DISABLE_REQUIRE": "0"}), "550.54.14")


def test_launch_is_refused_by_what_its_image_demands(here, image):
    demand = {"NVIDIA_REQUIRE_CUDA": "cuda>=12.5"}
    assert "demands: cuda>=12.5" in line(lambda: launched(image, of_image=demand))
    only = launched(image, plan_gpu.Wish("image"), of_image=demand)
    assert only.mounts == ()
    assert "demands: cuda>=12.5" in only.notes[0]


# -- newer CUDA libraries of the image ---------------------------------------------------------------


def compat(image, name):
    os.makedirs(f"{image}{cuda.COMPAT}", exist_ok=True)
    open(f"{image}{cuda.COMPAT}/{name}", "w").close()


def test_newer_libraries_of_the_image_come_first_and_satisfy_its_demand(here, image):
    compat(image, "libcuda.so.1")
    compat(image, "libcuda.so.560.35.03")
    told = {"LD_LIBRARY_PATH": "/x", "NVIDIA_REQUIRE_CUDA": "cuda>=12.6"}
    made = launched(image, of_image=told)
    assert [(each.name, each.value) for each in made.variables] == [
        ("LD_LIBRARY_PATH", "/usr/local/cuda/compat:/x")
    ]
    none = launched(image, own={cuda.CAPABILITIES: "utility", "NVIDIA_DISABLE_REQUIRE": "1"})
    assert none.variables == ()


@pytest.mark.parametrize("name", ["libcuda.so.550.1", "libcuda.so.470.82", "libcuda.so.1", "x"])
def test_older_libraries_of_the_image_stay_where_they_are(here, image, name):
    compat(image, name)
    assert launched(image).variables == ()


def test_cards_that_take_no_newer_libraries_get_none():
    assert cuda.is_compatible("560.1", "550.1", ("NVIDIA H100",))
    assert not cuda.is_compatible("560.1", "550.1", ("NVIDIA GeForce RTX 4090",))


@pytest.mark.parametrize("target", ["/", "../../../../../..", "/proc/self/root"])
def test_compat_directory_cannot_lead_out_of_the_image(tmp_path, target):
    outside = tmp_path / "usr/local/cuda/compat"
    outside.mkdir(parents=True)
    (outside / "libcuda.so.999.1").touch()
    root = tmp_path / "image"
    (root / "usr/local").mkdir(parents=True)
    os.symlink(f"{target.rstrip('/')}{tmp_path}/usr/local/cuda", root / "usr/local/cuda")
    assert gpu.compat_version(str(root), cuda.COMPAT) == ""


# -- MIG -------------------------------------------------------------------------------------------


def test_mig_devices_are_chosen_by_cuda_itself(here, image):
    wanted = plan_gpu.Wish("job", ("MIG-1", "MIG-2"))
    made = launched(image, wanted)
    assert [(each.name, each.value) for each in made.variables] == [
        ("CUDA_VISIBLE_DEVICES", "MIG-1,MIG-2")
    ]
    nodes = {mount.destination for mount in made.mounts if mount.type == "device"}
    assert {"/dev/nvidia0", "/dev/nvidia1", "/dev/nvidia-caps/nvidia-cap2"} <= nodes
    of_slurm = launched(image, wanted, job={"CUDA_VISIBLE_DEVICES": "MIG-1"})
    assert of_slurm.variables == ()


@pytest.mark.parametrize(
    ("which", "complaint"),
    [
        (("MIG-1", "0"), "'0' beside a MIG device (CUDA takes either; name MIG devices alone, by their UUIDs (nvidia-smi -L))"),
        (("0:1",), "'0:1': a MIG device is known by its UUID here (write it as MIG-... (nvidia-smi -L))"),
    ],
)  # fmt: skip
def test_mig_devices_that_cannot_be_chosen_are_refused(here, image, which, complaint):
    assert line(lambda: launched(image, plan_gpu.Wish("job", which))) == (
        f"error [device]: NVIDIA_VISIBLE_DEVICES: {complaint}"
    )


def test_mig_device_of_another_job_is_refused(here, image, node):
    gpu_forge.node(node, "/dev/nvidia-caps/nvidia-cap2", 236, 2, rights="")
    assert "MIG-1: there is no MIG device that you may open" in line(
        lambda: launched(image, plan_gpu.Wish("job", ("MIG-1",)))
    )


# -- NVIDIA's hooks --------------------------------------------------------------------------------


def hook(*args, path="/usr/bin/nvidia-cdi-hook"):
    return hooks.Hook("createContainer", path, args, (), 30, "/etc/cdi/nvidia.yaml")


SYMLINKS = hook(
    *("nvidia-cdi-hook", "create-symlinks", "--link", "libcuda.so.1::/usr/lib/x/libcuda.so"),
    "--link=../nv.so::/usr/lib/x/gbm/nvidia-drm_gbm.so",
)


def test_meaning_of_the_hooks():
    other = hook("nvidia-cdi-hook", "frobnicate")
    found = nvidiahooks.meaning(
        (
            SYMLINKS,
            hook("nvidia-ctk", "hook", "update-ldcache", "--folder", "/a", path="/usr/bin/nvidia-ctk"),
            hook("nvidia-cdi-hook", "enable-cuda-compat", "--host-driver-version=550.54.14"),
            hook("nvidia-cdi-hook", "chmod", "--mode", "755", "--path", "/dev/dri"),
            other,
        )
    )  # fmt: skip
    assert [(link.path, link.content) for link in found.links] == [
        ("/usr/lib/x/libcuda.so", "libcuda.so.1"),
        ("/usr/lib/x/gbm/nvidia-drm_gbm.so", "../nv.so"),
    ]
    assert found.folders == ("/a",)
    assert found.compat
    assert found.rest == (other,)


@pytest.mark.parametrize(
    ("path", "args"),
    [
        ("/usr/bin/nvidia-ctk", ("nvidia-ctk", "runtime", "create-symlinks")),
        ("/opt/other", ("nvidia-cdi-hook", "create-symlinks")),
        ("/usr/bin/nvidia-cdi-hook", ("nvidia-cdi-hook",)),
        ("/usr/bin/nvidia-ctk", ("nvidia-ctk",)),
    ],
)
def test_other_programs_and_words_are_other_hooks(path, args):
    assert nvidiahooks.word(hook(*args, path=path)) == ""


@pytest.mark.parametrize("text", ["x", "::/a", "a::b", "a::/x/../y", "a\n::/x", "a::/x/"])
def test_malformed_link_of_a_hook_is_refused(text):
    with pytest.raises(errors.DeviceError):
        nvidiahooks.meaning((hook("nvidia-cdi-hook", "create-symlinks", "--link", text),))


def test_libraries_that_the_cache_should_name_go_where_the_images_loader_looks(
    here, image, tmp_path
):
    source = elf_forge.library(f"{tmp_path}/libcuda.so.{VERSION}", soname="libcuda.so.1")
    place = f"/opt/driver/libcuda.so.{VERSION}"
    compat(image, "libcuda.so.560.1")
    ldcache = hook("nvidia-cdi-hook", "update-ldcache", "--folder", "/opt/driver")
    newer = hook("nvidia-cdi-hook", "enable-cuda-compat")
    before = edits.Edits(
        mounts=(mounts.Mount(place, "bind", str(source), ("ro",), "CDI"),),
        hooks=(SYMLINKS, ldcache, newer),
    )
    made = run_gpu.with_hooks_done(before, view.View("/nowhere", image), cuda.NOTHING)
    assert [mount.destination for mount in made.mounts] == [
        place,
        *(f"{FOLDER}/libcuda.so.{VERSION}", f"{FOLDER}/libcuda.so.1", f"{FOLDER}/libcuda.so"),
    ]
    assert {mount.source for mount in made.mounts} == {str(source)}
    assert made.links[0].path == "/usr/lib/x/libcuda.so"
    assert made.hooks == ()
    assert [each.value for each in made.variables] == [cuda.COMPAT]


def test_driver_without_compute_needs_no_libcuda(tmp_path):
    gpu_forge.put(str(tmp_path), "/sys/module/nvidia/version", VERSION)
    found = gpu.nvidia(str(tmp_path))
    assert (
        driver.nvidia(found, plan_gpu.Wish("job"), FOLDER, "", frozenset({"utility"})).notes == ()
    )
