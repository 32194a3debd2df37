"""glibc.versions and the shipped library: what is read from real files."""

import os
import re
import subprocess

import elf_forge
import glibc_forge as forge

from fairlead.glibc import arch, binding, rules, versions
from fairlead.host import elf, ldso


def test_number_of_a_version():
    assert versions.number("GLIBC_2.34") == (2, 34)
    assert versions.number("GLIBC_2.2.5") == (2, 2, 5)
    assert [versions.number(name) for name in ("GLIBC_PRIVATE", "GLIBC_ABI_DT_RELR", "V1", "")] == [
        ()
    ] * 4


def test_family_of_this_machine_is_what_its_files_say():
    found = forge.own()
    shown = subprocess.run(
        ["getconf", "GNU_LIBC_VERSION"], capture_output=True, text=True, check=True
    )
    assert found.name.removeprefix("GLIBC_") == shown.stdout.split()[1]
    assert {"libc.so.6", "libm.so.6", "libpthread.so.0"} <= found.libraries.keys()
    (memcpy,) = [item for item in found.symbols["memcpy"] if item.version == "GLIBC_2.14"]
    assert memcpy == versions.Definition("libc.so.6", "GLIBC_2.14", True, True)
    (old,) = [item for item in found.symbols["memcpy"] if item.version == "GLIBC_2.2.5"]
    assert not old.default
    assert not any(item.function for item in found.symbols["stdout"])
    assert not any(item.function for item in found.symbols["errno"])


def test_image_without_glibc_is_an_empty_family(tmp_path):
    found = versions.read(ldso.Loader(str(tmp_path)))
    assert (found.release, found.libraries) == ((), {})


def test_needs_are_those_that_readelf_shows(tmp_path):
    path = forge.program(tmp_path / "program", "-s")
    (found,) = versions.read_needs([("program", path)])
    shown = subprocess.run(
        ["readelf", "-W", "--dyn-syms", path], capture_output=True, text=True, check=True
    )
    asked = set(re.findall(r"UND (\w+)@(GLIBC_[\d.]+)", shown.stdout))
    assert {(want.symbol, want.version) for want in found.wants} == asked
    assert ("pthread_create", "GLIBC_2.34") in asked
    assert {version for _, version in found.versions} >= {version for _, version in asked}
    assert not found.relative


def test_copied_variable_of_a_library_is_wanted(tmp_path):
    """A program that is not position-independent defines it, under the library's version."""
    path = elf_forge.compile_c(
        tmp_path / "program",
        "extern char __libc_single_threaded; int main(void) { return __libc_single_threaded; }",
        "-no-pie", "-fno-pie",
    )  # fmt: skip
    (found,) = versions.read_needs([("program", path)])
    assert "__libc_single_threaded" in {want.symbol for want in found.wants}


def test_shipped_library_asks_for_nothing_but_what_the_polyfill_gives():
    with elf.Reader(forge.IMPLEMENTATION) as reader:
        symbols = list(reader.symbols())
        assert reader.needs() == ()
        assert reader.definitions() == {}
        assert reader.elf.needed == ()
        assert not reader.relative
    undefined = {item.name for item in symbols if not item.defined}
    assert all(name.startswith((binding.IMPORTED, binding.SHARED)) for name in undefined)
    assert all(i.weak for i in symbols if i.name.startswith(binding.SHARED))
    assert all(i.name.startswith(binding.IMPLEMENTED) for i in symbols if i.defined)
    assert all(name.startswith("fairlead_") for name in (binding.IMPORTED, binding.IMPLEMENTED))


def test_shipped_library_has_no_writable_code_no_thread_locals_and_no_constructors():
    shown = subprocess.run(
        ["readelf", "-W", "--segments", "--dynamic", forge.IMPLEMENTATION],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "BIND_NOW" in shown
    assert re.search(r"GNU_STACK .* RW ", shown)
    assert "RWE" not in shown
    assert not re.search(r"TEXTREL|\bTLS\b|\(INIT", shown)


def test_what_the_shipped_library_needs_has_been_in_glibc_since_its_oldest():
    family = forge.as_old_as(rules.OLDEST)
    lacking = [name for name, optional in forge.offers().imports if name not in family.symbols]
    assert lacking == []


def test_all_of_this_glibcs_libc_can_be_had_on_the_oldest_but_what_is_said():
    """The list is derived: every symbol of this machine's glibc above 2.17, in one closure."""
    own = forge.own()
    wants = tuple(
        elf.Want(item.library, item.version, name, False, False)
        for name, found in own.symbols.items()
        for item in found
        if versions.number(item.version) > rules.OLDEST and not name.startswith("GLIBC_")
    )
    asked = versions.Needs(
        "all",
        own.machine,
        frozenset((w.library, w.version) for w in wants),
        wants,
        frozenset(),
        False,
    )
    found = binding.plan([asked], forge.as_old_as(rules.OLDEST), forge.offers())
    refused = {item.symbol: item.reason for item in found.obstacles}
    libc = {want.symbol for want in wants if want.library == "libc.so.6"}
    assert {name for name in refused if name in libc and "f128" not in name} == UNAVAILABLE
    assert "new, and not implemented here" not in {
        refused[name] for name in refused if name in libc
    }
    assert len(found.bindings) > 750


# Of libc 2.18 to 2.36; docs/admin.md says so.
UNAVAILABLE = {
    "c8rtomb", "fmemopen", "mbrtoc8", "posix_spawn_file_actions_addchdir_np",
    "posix_spawn_file_actions_addfchdir_np", "posix_spawn_file_actions_addtcsetpgrp_np",
    "pthread_attr_getsigmask_np", "pthread_attr_setsigmask_np", "pthread_setattr_default_np",
}  # fmt: skip


def test_library_is_built_for_the_machines_that_are_known():
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    with open(os.path.join(root, "setup.py"), encoding="utf-8") as file:
        names = re.search(r"POLYFILL_MACHINES = \((.*)\)", file.read())[1]
    assert set(re.findall(r"\w+", names)) == arch.ARCHS.keys()
