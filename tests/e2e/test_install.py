"""``pip install .`` is all that a machine without root and Slurm needs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import images
import pytest

ROOT = Path(__file__).parents[2]
UID, GID = 23456, 23457
PARTS = ("pyproject.toml", "setup.py", "README.md", "engine", "c_ext")


def drop() -> None:
    os.setgroups([])
    os.setresgid(GID, GID, GID)
    os.setresuid(UID, UID, UID)


@pytest.fixture
def place() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("becomes another user, so it starts as root")
    path = Path(f"/var/tmp/fairlead-pip-{os.getpid()}")
    path.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(
                source, path / "src" / part, ignore=shutil.ignore_patterns("*.so", "__pycache__")
            )
        else:
            (path / "src").mkdir(exist_ok=True)
            shutil.copy(source, path / "src" / part)
    for directory, names, files in os.walk(path):
        for name in (".", *names, *files):
            os.chown(os.path.join(directory, name), UID, GID, follow_symlinks=False)
    yield path
    shutil.rmtree(path)


def test_pip_install_as_an_ordinary_user_runs_a_container(place: Path, registry: str) -> None:
    pip = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("PIP_", "SSL_", "REQUESTS_"))
    }
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(place), **pip}
    for command in (
        ["/usr/bin/python3", "-m", "venv", "venv"],
        ["venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", "./src"],
    ):
        subprocess.run(
            command, preexec_fn=drop, cwd=place, env=environ, check=True, capture_output=True
        )
    box = images.program(Path("/bin/busybox").read_bytes())
    files: dict[str, bytes | images.Entry] = {
        "bin/busybox": box,
        "bin/sh": images.symlink("busybox"),
    }
    images.push(
        registry, "pip/box", "1", images.image([images.layer(files)], {"Env": ["PATH=/bin"]})
    )
    environ["FAIRLEAD_STORE"] = f"{place}/store"
    command = [
        "venv/bin/fairlead",
        "run",
        f"{registry}/pip/box:1",
        "sh",
        "-c",
        "echo uid $UID; echo in $FAIRLEAD_CONTAINER",
    ]
    result = subprocess.run(
        command, preexec_fn=drop, cwd=place, env=environ, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert f"in {registry}/pip/box:1@sha256:" in result.stdout
