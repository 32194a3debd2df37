"""The seal on the command: only the plugin's remote side can undo it."""

import ctypes
import os
import subprocess

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture(scope="module")
def seal(tmp_path_factory):
    library = str(tmp_path_factory.mktemp("seal") / "seal.so")
    command = [
        "gcc",
        "-std=gnu17",
        "-D_GNU_SOURCE",
        "-fPIC",
        "-shared",
        "-o",
        library,
        "spank_shim/seal.c",
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    loaded = ctypes.CDLL(library)
    for name in ("seal_command", "seal_open", "seal_programs"):
        getattr(loaded, name).restype = ctypes.c_char_p
        getattr(loaded, name).argtypes = [ctypes.c_char_p]
    return loaded


@pytest.mark.parametrize("command", [b"./app", b"/bin/true", b"python3", b"a b", b""])
def test_opening_gives_back_what_was_sealed(seal, command):
    sealed = seal.seal_command(command)
    assert sealed.startswith(b"/.fairlead/")
    assert seal.seal_open(sealed) == command


def test_sealed_command_exists_on_no_host(seal):
    assert not os.path.exists(seal.seal_command(b"/bin/sh"))


def test_unsealed_command_does_not_open(seal):
    assert seal.seal_open(b"/bin/true") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"0 ./a x\n1-3 ./b\n", b"0 /.fairlead/exec ./a x\n1-3 /.fairlead/exec ./b\n"),
        (b"# note\n\n  * app %t", b"# note\n\n  * /.fairlead/exec app %t\n"),
        (b"0 ./a \\\n  more\n1 ./b", b"0 /.fairlead/exec ./a \\\n  more\n1 /.fairlead/exec ./b\n"),
        (b"0\t./a", b"0 /.fairlead/exec ./a\n"),
    ],
)
def test_every_program_of_a_multi_prog_text_is_sealed(seal, text, expected):
    assert seal.seal_programs(text) == expected
