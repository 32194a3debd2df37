"""Linters run as tests."""

import os
import shutil
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPTS = (
    "quickstart",
    "test",
    "install",
    ".ci/run",
    "tests/bed/cluster",
    "tests/bed/downbind",
    "tests/bed/images",
    "tests/bed/mpi_hosts",
    "tests/bed/mpi_images",
    "tests/bed/packages",
    "tests/bed/private",
    "tests/bed/registry",
    "tests/bed/release",
    "tests/faults/sweep",
)


def clean(*command):
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def tool(name):
    path = shutil.which(
        name, path=os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    )
    return path or pytest.skip(f"{name} is not installed")


def test_ruff_check():
    clean(tool("ruff"), "check", "engine", "tests", "c_ext", "setup.py")


def test_ruff_format():
    clean(tool("ruff"), "format", "--check", "engine", "tests", "c_ext", "setup.py")


def test_mypy_strict():
    clean(tool("mypy"))


def test_c_under_strict_warnings_with_gcc_and_clang():
    tool("clang")
    clean("make", "-s", "-C", "c_ext", "check")


def test_shim_under_strict_warnings_with_gcc_and_clang():
    tool("clang")
    if not os.path.exists("/usr/include/slurm/spank.h"):
        pytest.skip("no Slurm headers")
    clean("make", "-s", "-C", "spank_shim", "check")


def test_shellcheck():
    clean(tool("shellcheck"), "-x", "-P", "tests/bed", "-e", "SC1091,SC2034", *SCRIPTS)
