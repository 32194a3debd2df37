"""GPUs are found by reading, on recorded nodes; a launch gets those of its job and the driver of exactly one version."""

from __future__ import annotations

import os

import elf_forge
import gpu_forge
import plans
import pytest
from gpu_forge import FOLDER, VERSION

from fairlead import errors
from fairlead.host import devices, gpu
from fairlead.plan import driver, edits
from fairlead.plan import gpu as plan_gpu
from fairlead.plan import plan as launch_plan
from fairlead.run import gpu as run_gpu
from fairlead.run import view


@pytest.fixture(autouse=True)
def _forged_devices(monkeypatch):
    monkeypatch.setattr(devices, "look", gpu_forge.look)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    root = str(tmp_path_factory.mktemp("node"))
    gpu_forge.nvidia(root)
    return root


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """A root with a glibc in Debian's place."""
    root = str(tmp_path_factory.mktemp("image"))
    elf_forge.library(f"{root}{FOLDER}/libc.so.6")
    return root


ALL = plan_gpu.Wish("job")


# -- the host --------------------------------------------------------------------------------------


def test_node_without_a_driver_has_none(tmp_path):
    assert gpu.nvidia(str(tmp_path)) is None
    assert gpu.render(str(tmp_path)) == gpu.Render((), ())


@pytest.mark.parametrize(
    ("path", "text", "version"),
    [
        ("/sys/module/nvidia/version", "535.161.07\n", "535.161.07"),
        (
            "/proc/driver/nvidia/version",
            (
                "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
                "GCC version:  gcc version 12.2.0\n"
            ),
            "580.65.06",
        ),
        ("/proc/driver/nvidia/version", "nonsense ../../etc\n", ""),
        ("/sys/module/nvidia/version", "../../../1.2\n", ""),
    ],
)
def test_version_of_the_driver(tmp_path, path, text, version):
    gpu_forge.put(str(tmp_path), path, text)
    assert gpu.nvidia_version(str(tmp_path)) == version


def test_whole_driver_is_found(node):
    found = gpu.nvidia(node)
    assert found.version == VERSION
    assert {library.path: library.names for library in found.libraries} == {
        f"{FOLDER}/libcuda.so.{VERSION}": (f"libcuda.so.{VERSION}", "libcuda.so.1", "libcuda.so"),
        f"{FOLDER}/libnvidia-glcore.so.{VERSION}": (f"libnvidia-glcore.so.{VERSION}",),
        f"{FOLDER}/libnvidia-ml.so.{VERSION}": (
            f"libnvidia-ml.so.{VERSION}",
            "libnvidia-ml.so.1",
        ),
        f"{FOLDER}/libnvidia-opticalflow.so.{VERSION}": (
            f"libnvidia-opticalflow.so.{VERSION}",
            "libnvidia-opticalflow.so.1",
            "libnvidia-opticalflow.so",
        ),
        f"{FOLDER}/libnvidia-ptxjitcompiler.so.{VERSION}": (
            f"libnvidia-ptxjitcompiler.so.{VERSION}",
            "libnvidia-ptxjitcompiler.so.1",
        ),
    }
    assert found.binaries == ("/usr/bin/nvidia-smi", "/usr/bin/nvidia-cuda-mps-control")
    assert found.files == (
        "/etc/OpenCL/vendors/nvidia.icd",
        f"/lib/firmware/nvidia/{VERSION}",
        "/run/nvidia-persistenced/socket",
    )
    assert [each.path for each in found.control] == [
        "/dev/nvidia-modeset",
        "/dev/nvidia-uvm",
        "/dev/nvidia-uvm-tools",
        "/dev/nvidiactl",
        "/dev/nvidia-caps/nvidia-cap2",
    ]


def test_cards_are_numbered_as_nvidia_smi_does(node):
    cards = gpu.nvidia(node).cards
    assert [(card.number, card.node.path, card.uuid) for card in cards] == [
        (0, "/dev/nvidia1", "GPU-00000001"),
        (1, "/dev/nvidia0", "GPU-00000000"),
    ]


def test_card_that_the_job_may_not_open_is_not_there_and_keeps_its_number(tmp_path):
    root = str(tmp_path)
    gpu_forge.nvidia(root)
    gpu_forge.node(root, "/dev/nvidia1", 195, 1, rights="")
    assert [card.number for card in gpu.nvidia(root).cards] == [1]


def test_libraries_of_another_version_are_not_the_drivers(tmp_path):
    root = str(tmp_path)
    gpu_forge.put(root, "/sys/module/nvidia/version", "999.1\n")
    gpu_forge.driver(root)
    assert gpu.nvidia(root).libraries == ()


def test_libraries_that_the_cache_does_not_name_are_found_beside_libcuda(tmp_path):
    root = str(tmp_path)
    gpu_forge.nvidia(root)
    gpu_forge.cache(root, [("libcuda.so.1", f"{FOLDER}/libcuda.so.1")])
    assert len(gpu.nvidia(root).libraries) == len(gpu_forge.SONAMES)


def test_driver_outside_of_the_loaders_directories_is_found_by_its_cache(tmp_path):
    root = str(tmp_path)
    gpu_forge.put(root, "/sys/module/nvidia/version", VERSION)
    gpu_forge.driver(root, folder="/opt/driver/lib")
    assert gpu.nvidia(root).libraries[0].path == f"/opt/driver/lib/libcuda.so.{VERSION}"


def test_amd_and_intel_are_their_device_nodes(tmp_path):
    gpu_forge.amd(str(tmp_path))
    found = driver.rendered(gpu.render(str(tmp_path)))
    assert [mount.destination for mount in found.mounts] == [
        "/dev/kfd",
        "/dev/dri/card0",
        "/dev/dri/card1",
        "/dev/dri/renderD128",
        "/dev/dri/renderD129",
    ]
    assert [(link.path, link.content) for link in found.links] == [
        ("/dev/dri/by-path/pci-0000:03:00.0-render", "../renderD128")
    ]


def test_servers_console_is_no_gpu(tmp_path):
    gpu_forge.node(str(tmp_path), "/dev/dri/card0", 226, 0)
    assert gpu.render(str(tmp_path)).nodes == ()


# -- what is wanted --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "job", "asked", "image", "wish"),
    [
        ("auto", {}, (), (), None),
        ("all", {}, (), (), ("setting", ())),
        ("none", {"SLURM_JOB_GPUS": "0"}, (), (), None),
        ("auto", {"SLURM_JOB_GPUS": "0,1"}, (), (), ("job", ())),
        ("auto", {"SLURM_STEP_GPUS": "0"}, (), (), ("job", ())),
        ("auto", {"ROCR_VISIBLE_DEVICES": "0"}, (), (), ("job", ())),
        ("auto", {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, (), (), None),
        ("auto", {"CUDA_VISIBLE_DEVICES": ""}, (), (), None),
        ("auto", {}, (), (("NVIDIA_VISIBLE_DEVICES", "all"),), ("image", ())),
        ("auto", {}, (), (("NVIDIA_VISIBLE_DEVICES", "void"),), None),
        ("auto", {}, (), (("NVIDIA_VISIBLE_DEVICES", "0"),), ("image", ("0",))),
        ("auto", {"SLURM_JOB_GPUS": "0"}, (), (("NVIDIA_VISIBLE_DEVICES", "all"),), ("job", ())),
        ("auto", {"NVIDIA_VISIBLE_DEVICES": "none", "SLURM_JOB_GPUS": "0"}, (), (), None),
        ("auto", {"NVIDIA_VISIBLE_DEVICES": "0, GPU-1"}, (), (), ("job", ("0", "GPU-1"))),
        (
            "auto",
            {"NVIDIA_VISIBLE_DEVICES": "0"},
            (("NVIDIA_VISIBLE_DEVICES", "1"),),
            (("NVIDIA_VISIBLE_DEVICES", "2"),),
            ("job", ("1",)),
        ),
        ("all", {}, (), (("NVIDIA_VISIBLE_DEVICES", "void"),), ("setting", ())),
        ("none", {}, (), (("NVIDIA_VISIBLE_DEVICES", "all"),), None),
    ],
)
def test_who_wants_which_gpus(mode, job, asked, image, wish):
    assert plan_gpu.wish(mode, job, asked, image) == (wish and plan_gpu.Wish(*wish))


def test_node_without_a_gpu_is_an_error_a_note_or_nothing():
    with pytest.raises(errors.DeviceError) as caught:
        plan_gpu.absent(plan_gpu.Wish("setting"))
    assert caught.value.line() == (
        "error [device]: GPUs: this node has no driver of an NVIDIA, AMD or Intel GPU "
        '(set gpu = "auto" or "none" (FAIRLEAD_GPU))'
    )
    assert plan_gpu.absent(plan_gpu.Wish("job")).notes == (
        "the job has GPUs, but this node has no driver of an NVIDIA, AMD or Intel GPU",
    )
    assert plan_gpu.absent(plan_gpu.Wish("image")) == edits.NONE


# -- what goes where -------------------------------------------------------------------------------


def test_libraries_go_where_the_images_loader_looks(node, image):
    found = driver.nvidia(gpu.nvidia(node), ALL, gpu.library_directory(image), "")
    places = {mount.destination: mount for mount in found.mounts}
    assert places[f"{FOLDER}/libcuda.so.1"].source == f"{FOLDER}/libcuda.so.{VERSION}"
    assert places[f"{FOLDER}/libcuda.so.1"].options == ("ro",)
    assert places["/dev/nvidia1"].reason == "GPU 0 GPU-00000001"
    assert places["/usr/bin/nvidia-smi"].reason == f"NVIDIA driver {VERSION}"
    assert found.notes == ()
    plan = launch_plan.make(
        plans.source(), plans.request(), plans.FACTS, launch_plan.Injection(), found
    )
    assert set(places) <= {mount.destination for mount in plan.mounts}


def test_gpus_that_are_named_are_the_only_ones(node):
    found = gpu.nvidia(node)
    for which in ("1", "GPU-00000000"):
        made = driver.nvidia(found, plan_gpu.Wish("job", (which,)), FOLDER, "")
        cards = [m.destination for m in made.mounts if m.reason.startswith("GPU ")]
        assert cards == ["/dev/nvidia0"]


def test_gpu_that_is_not_the_jobs_is_refused_by_name(node):
    with pytest.raises(errors.DeviceError) as caught:
        driver.nvidia(gpu.nvidia(node), plan_gpu.Wish("job", ("7",)), FOLDER, "")
    assert caught.value.line() == (
        "error [device]: NVIDIA_VISIBLE_DEVICES: GPU '7' is not one that you may open "
        "(there are 0 (GPU-00000001), 1 (GPU-00000000))"
    )


def test_driver_without_libraries_is_refused(tmp_path):
    gpu_forge.put(str(tmp_path), "/sys/module/nvidia/version", VERSION)
    with pytest.raises(errors.DeviceError) as caught:
        driver.nvidia(gpu.nvidia(str(tmp_path)), ALL, FOLDER, "")
    assert caught.value.line() == (
        f"error [device]: NVIDIA driver {VERSION}: the loader's cache has no libcuda.so.{VERSION} "
        "(ask the administrator for the driver's libraries of the kernel module's version)"
    )


def test_mps_daemons_directory_comes_along(node):
    made = driver.nvidia(gpu.nvidia(node), ALL, FOLDER, "/run/mps")
    assert ("/run/mps", ("rbind",)) in [(m.destination, m.options) for m in made.mounts]


def test_image_without_glibc_gets_the_gpus_and_a_word(node, tmp_path):
    assert gpu.library_directory(str(tmp_path)) == ""
    made = driver.nvidia(gpu.nvidia(node), ALL, "", "")
    assert not any("/libcuda" in mount.destination for mount in made.mounts)
    assert made.notes == (
        f"the image has no glibc: it gets the GPUs, but not the libraries of NVIDIA driver {VERSION}",
    )


@pytest.mark.parametrize("target", ["/", "../../../../..", "/proc/self/root"])
def test_directory_of_an_image_cannot_lead_out_of_it(tmp_path, target):
    """Row 38: an image whose library directory is a link to the host's root."""
    root = tmp_path / "image"
    (root / "usr/lib").mkdir(parents=True)
    os.symlink(target, root / f"usr/lib/{elf_forge.TRIPLET}")
    assert gpu.library_directory(str(root)) == ""
    elf_forge.library(root / "libc.so.6")
    assert gpu.library_directory(str(root)) in ("", "/")  # of the image


# -- a launch --------------------------------------------------------------------------------------


@pytest.fixture
def here(node, monkeypatch):
    """This node is the forged one, without a CDI specification."""
    nvidia, render = gpu.nvidia, gpu.render
    monkeypatch.setattr(gpu, "nvidia", lambda: nvidia(node))
    monkeypatch.setattr(gpu, "render", lambda: render(node))


class Config:
    cdi_dirs = ()


def test_launch_gets_the_driver(here, image):
    files = view.View("/nowhere", image)
    made = run_gpu.edits(ALL, {"CUDA_MPS_PIPE_DIRECTORY": "/tmp/mps"}, Config, files)
    assert f"{FOLDER}/libcuda.so.1" in {mount.destination for mount in made.mounts}
    assert "/tmp/mps" not in {mount.destination for mount in made.mounts}


def test_directory_is_kept_for_an_image_whose_layers_are_mounts(here, image, tmp_path):
    calls = []

    class Files:
        place, rootfs = str(tmp_path), ""

        def read(self, work):
            calls.append(work(image))

    for _ in range(2):
        made = run_gpu.edits(ALL, {}, Config, Files())
        assert f"{FOLDER}/libcuda.so.1" in {mount.destination for mount in made.mounts}
    assert len(calls) == 1


def test_gpu_that_only_the_image_names_wrongly_is_a_word(here, image):
    """What an image says selects nothing and stops nothing."""
    files = view.View("/nowhere", image)
    made = run_gpu.edits(plan_gpu.Wish("image", ("7",)), {}, Config, files)
    assert made == edits.Edits(
        notes=("no GPU of NVIDIA: NVIDIA_VISIBLE_DEVICES: GPU '7' is not one that you may open",)
    )


def test_cdi_comes_before_discovery(here, image, monkeypatch):
    from test_devices import registry

    spec = registry(env=["FROM=cdi"]).specs[0]._replace(kind="nvidia.com/gpu")
    monkeypatch.setattr(
        run_gpu.cdi, "read", lambda directories: run_gpu.cdi.Registry((spec,), (), ("/etc/cdi",))
    )
    files = view.View("/nowhere", image)
    made = run_gpu.edits(ALL, {}, Config, files)
    assert [(each.name, each.value) for each in made.variables] == [("FROM", "cdi")]
    assert made.mounts == ()
    with pytest.raises(errors.DeviceError, match=r"nvidia\.com/gpu=5: no CDI"):
        run_gpu.edits(plan_gpu.Wish("job", ("5",)), {}, Config, files)
