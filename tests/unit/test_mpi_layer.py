"""run.layer: which directories of the image a library of the host does not see."""

import elf_forge
import pytest

from fairlead.glibc import binding
from fairlead.host import ldso, mpi
from fairlead.plan import inject
from fairlead.run import fit, layer

COMPILED_IN = "/usr/lib/triplet/ucx"
NOTHING = binding.Decision("nothing", "", 0)


@pytest.fixture
def profile(tmp_path):
    """A UCX that was moved, with a plugin beside it, and what it was compiled for."""
    place = tmp_path / "host/lib"
    ucs = elf_forge.library(
        place / "libucs.so.0",
        f'const char *names[] = {{"{COMPILED_IN}", "/etc/ucx", "/usr/lib64/ucx"}};',
    )
    plugin = elf_forge.library(place / "ucx/libuct_cma.so.0")
    found = mpi.Plugins(f"{place}/ucx", "libucs.so.0", (("libuct_cma.so.0", plugin),), ())
    return mpi.Profile(
        "MPICH 4.2.1", "mpich", "mpich-abi", "4.2.1", (), (("libucs.so.0", ucs),), (found,), (), (),
        (), "", (), (), "identity",
    )  # fmt: skip


def laid_out(tmp_path, profile, source):
    image = tmp_path / "image"
    for name in (
        f"{COMPILED_IN}/libuct_ib.so.0",
        "/etc/ucx/ucx.conf",
        "/usr/lib64/ucx/bin/ucx_info",
    ):
        (image / name[1:]).parent.mkdir(parents=True, exist_ok=True)
        (image / name[1:]).touch()
    sheet = layer._Sheet(ldso.Loader(str(image)))
    found = fit.Fit((inject.Kept("libucs.so.0", source, ""),), NOTHING)
    layer._libraries(sheet, profile, found)
    layer._directories(sheet, profile, found)
    opaque = {path for path, entry in sheet.entries.items() if entry.kind == "opaque"}
    return sheet, opaque


def test_compiled_in_plugin_directory_of_the_image_is_emptied(tmp_path, profile):
    sheet, opaque = laid_out(tmp_path, profile, "host")
    assert COMPILED_IN in opaque
    assert not opaque & {"/etc/ucx", "/usr/lib64/ucx"}, "settings, and a prefix"
    assert sheet.rewriting["mpich-abi"].hidden == ()


def test_library_under_a_name_of_its_own_does_not_find_what_the_image_keeps(tmp_path, profile):
    sheet, opaque = laid_out(tmp_path, profile, "private")
    assert opaque == {"/.fairlead"}
    assert sheet.rewriting["mpich-abi"].hidden == (COMPILED_IN,)
    assert "/.fairlead/mpi/mpich-abi/lib/ucx/libuct_cma.so.0" in sheet.entries
