"""Every value that srun, sbatch and salloc refuse, with its exact line, before there is a job."""

from __future__ import annotations

import jobs
import pytest
from jobs import SMALL

NO_VALUE = "no value (see srun --help)"
ONE = "(give one)"
TWICE = f"given twice, with different values {ONE}"
REFERENCE = "[reference]: --container: too long, or holds a control character (write it as [REGISTRY/]NAME[:TAG][@sha256:...] or as a path)"
FORGED = "x\nfairlead: error [x]: forged"
BOTH = ("mount-home", "remap-root", "entrypoint")
BOOLEANS = ("MOUNT_HOME", "REMAP_ROOT", "ENTRYPOINT", "ENTRYPOINT_LOG", "WRITABLE", "READONLY")
VALUES = ("image", "mounts", "workdir", "name", "save", "env", "unshare", "device", "annotation")
LONG = "longer than 98304 bytes (name a directory above what it lists)"

OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "image, empty": (("--container=",), "[reference]: --container: empty, as from an unset variable (write none to run on the host)"),
    "image of two lines": ((f"--container={FORGED}",), REFERENCE),
    "image that is too long": (("--container=" + "a" * 100_000,), REFERENCE),
    "image by both options": ((f"--container={SMALL}", "--container-image=other"), f"[usage]: --container-image: given together with --container {ONE}"),
    "environment, empty": (("--environment=",), f"[usage]: --environment: {NO_VALUE}"),
    "environment, twice": (("--environment=a", "--environment=b"), f"[usage]: --environment: {TWICE}"),
    "edf beside environment": (("--environment=a", "--edf=b"), f"[usage]: --edf: given together with --environment {ONE}"),
    "a name alone of two lines": ((f"--container-name={FORGED}",), "[usage]: --container-name: too long, or holds a control character (choose another)"),
    "bcast": ((f"--container={SMALL}", "--bcast=/tmp/fairlead-bcast"), "[usage]: --bcast together with --container (the image brings the program; drop --bcast)"),
    "relative workdir": ((f"--container={SMALL}", "--container-workdir=x"), "[workdir]: --container-workdir: not an absolute path (write it from /)"),
    **{f"{name}, no value": ((f"--container-image={SMALL}", f"--container-{name}="), f"[usage]: --container-{name}: {NO_VALUE}") for name in VALUES if name != "image"},
    "image, no value": (("--container-image=",), f"[usage]: --container-image: {NO_VALUE}"),
    **{f"{name}, twice": ((f"--container={SMALL}", f"--container-{name}=/a", f"--container-{name}=/b"), f"[usage]: --container-{name}: {TWICE}") for name in ("workdir", "name", "save")},
    "image, twice": (("--container-image=a", "--container-image=b"), f"[usage]: --container-image: {TWICE}"),
    **{f"{name} and its opposite": ((f"--container={SMALL}", f"--container-{name}", f"--no-container-{name}"), f"[usage]: --no-container-{name}: given together with --container-{name} {ONE}") for name in BOTH},
    "writable and readonly": ((f"--container={SMALL}", "--container-writable", "--container-readonly"), f"[usage]: --container-readonly: given together with --container-writable {ONE}"),
    "mpi of no kind": ((f"--container={SMALL}", "--container-mpi=both"), "[usage]: --container-mpi=both: not one of auto, host, image"),
    "mpi, no value": ((f"--container={SMALL}", "--container-mpi="), "[usage]: --container-mpi=: not one of auto, host, image"),
    "mpi, part of a word": ((f"--container={SMALL}", "--container-mpi=host,"), "[usage]: --container-mpi=host,: not one of auto, host, image"),
    "mpi, twice": ((f"--container={SMALL}", "--container-mpi=host", "--container-mpi=image"), f"[usage]: --container-mpi: {TWICE}"),
    "gpu of no kind": ((f"--container={SMALL}", "--container-gpu=some"), "[usage]: --container-gpu=some: not one of auto, all, none"),
    "gpu, twice": ((f"--container={SMALL}", "--container-gpu=all", "--container-gpu=none"), f"[usage]: --container-gpu: {TWICE}"),
    "mounts that are too long together": ((f"--container={SMALL}", f"--container-mounts={'/a,' * 30_000}/a", f"--container-mounts=/b{',/b' * 10_000}"), f"[usage]: --container-mounts: {LONG}"),
    "annotation without a value": ((f"--container={SMALL}", "--container-annotation=hook"), "[usage]: --container-annotation: 'hook' is not NAME=VALUE (write NAME=VALUE)"),
    "device that is none": ((f"--container={SMALL}", "--container-device=x"), "[usage]: device 'x': neither HOST[:CONTAINER][:rwm] nor vendor.com/class=name (write e.g. /dev/fuse or nvidia.com/gpu=0)"),
    "device below another directory": ((f"--container={SMALL}", "--container-device=/dev/zero:/etc/zero"), "[usage]: device '/dev/zero:/etc/zero': /etc/zero is not below /dev (write HOST:/dev/NAME)"),
    "name that is none": ((f"--container={SMALL}", "--container-name=../x"), "[usage]: --container-name: '../x' is not a name (letters, digits, '_', '-' and '.', at most 128, not '-' or '.' first)"),
    "name of what is saved": ((f"--container={SMALL}", "--container-name=save-1"), "[usage]: --container-name: 'save-1' begins with 'save-', as what is saved does (choose another)"),
    "environment that is missing": (("--environment=./absent.toml",), "[edf]: ./absent.toml: no such environment file (check the path)"),
}  # fmt: skip

VARIABLES: dict[str, tuple[dict[str, str], str]] = {
    **{f"{name} that is no boolean": ({f"PYXIS_CONTAINER_{name}": "maybe"}, f"[usage]: $PYXIS_CONTAINER_{name}: neither true nor false (write 1 or 0)") for name in BOOLEANS},
    "writable and readonly": ({"PYXIS_CONTAINER_WRITABLE": "1", "PYXIS_CONTAINER_READONLY": "1"}, "[usage]: $PYXIS_CONTAINER_READONLY: contradicts the variable of its opposite (unset one)"),
    "mpi": ({"FAIRLEAD_MPI": "both"}, "[usage]: $FAIRLEAD_MPI=both: not one of auto, host, image"),
    "gpu": ({"FAIRLEAD_GPU": "some"}, "[usage]: $FAIRLEAD_GPU=some: not one of auto, all, none"),
    "unshare": ({"PYXIS_CONTAINER_UNSHARE": "pid"}, "[usage]: --container-unshare: 'pid' is not one of net, ipc, uts (e.g. net,ipc)"),
    "env": ({"PYXIS_CONTAINER_ENV": "A=1"}, "[usage]: --container-env: 'A=1' is not the name of a variable (write NAME,NAME)"),
    "mounts": ({"PYXIS_CONTAINER_MOUNTS": "/a:/proc"}, "[usage]: --container-mounts: destination '/proc': cannot be replaced (choose another)"),
    "name": ({"PYXIS_CONTAINER_NAME": "a:b"}, "[usage]: --container-name: 'b' is not one of auto, create, exec, no_exec (write NAME[:MODE])"),
    "save": ({"PYXIS_CONTAINER_SAVE": "/tmp/"}, "[usage]: --container-save: '/tmp/' is a directory (name the file to write)"),
}  # fmt: skip


def refusal(*words: str, **variables: str) -> str:
    done = jobs.run(*words, **variables)
    assert done.returncode == 125, done.stderr
    lines = [line for line in done.stderr.splitlines() if "fairlead" in line]
    assert len(lines) == 1, done.stderr
    return lines[0].partition("fairlead: error ")[2]


@pytest.mark.parametrize("name", OPTIONS)
def test_option(name: str) -> None:
    words, line = OPTIONS[name]
    assert refusal("srun", *words, "true") == line


@pytest.mark.parametrize("name", VARIABLES)
def test_variable(name: str) -> None:
    variables, line = VARIABLES[name]
    assert refusal("srun", f"--container-image={SMALL}", "true", **variables) == line


def test_value_with_a_newline_cannot_forge_a_line() -> None:
    for option in ("--container-mpi", "--container-gpu"):
        found = refusal("srun", f"--container={SMALL}", f"{option}={FORGED}", "true")
        assert found.startswith(f"[usage]: {option}=x")


def test_export_file() -> None:
    words = ("sbatch", f"--container={SMALL}", "--export-file=/dev/null", "--wrap=true")
    assert refusal(*words) == (
        "[usage]: --export-file drops the container's variables (use --export)"
    )
