"""host.ldso: finds what ld.so finds, inside any root, whatever its cache contains."""

import os
import re
import struct
import subprocess

import elf_forge
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairlead.host import elf, ldso

LIBRARIES = f"/usr/lib/{elf_forge.TRIPLET}"
LIBMPI = f"{LIBRARIES}/libmpi.so.40"


def link(directory, *names):
    return [
        f"-L{directory}",
        *(f"-l:{name}" for name in names),
        "-Wl,--no-as-needed",
        "-Wl,--allow-shlib-undefined",
    ]


def new_tags(path):
    return [f"-Wl,-rpath,{path}", "-Wl,--enable-new-dtags"]


def old_tags(path):
    return [f"-Wl,-rpath,{path}", "-Wl,--disable-new-dtags"]


def depends(path, text, directory, names, *flags):
    return elf_forge.library(
        path, text, "-nodefaultlibs", "-Wl,--no-as-needed", *link(directory, *names), *flags
    )


def tree_with_two_copies(root):
    """Put libdeep.so into /a and /b of a root."""
    for name in ("a", "b"):
        elf_forge.library(root / name / "libdeep.so")


@pytest.mark.skipif(not os.path.exists(LIBMPI), reason="no OpenMPI on this machine")
def test_closure_is_what_ldd_prints():
    shown = subprocess.run(["ldd", LIBMPI], capture_output=True, text=True, check=True).stdout
    expected = {
        name: os.path.realpath(path) for name, path in re.findall(r"(\S+) => (/\S+)", shown)
    }
    found = ldso.Loader("/").closure([LIBMPI])
    assert {
        name: item.real for name, item in found.libraries.items() if name in expected
    } == expected
    assert not found.missing


def test_cache_is_what_ldconfig_prints():
    shown = subprocess.run(
        ["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True
    ).stdout
    expected: dict[str, str] = {}
    for name, kind, path in re.findall(r"^\t(\S+) \((\S+?)\) => (\S+)$", shown, re.MULTILINE):
        if kind.startswith("libc6,x86-64") or os.uname().machine != "x86_64":
            expected.setdefault(name, path)
    found = ldso.Loader("/").cache
    assert {name: found[name] for name in expected} == expected


def test_rpath_of_whatever_loaded_it_is_searched(tmp_path):
    tree_with_two_copies(tmp_path)
    depends(tmp_path / "a/libmid.so", "int m(void){return 1;}", tmp_path / "a", ["libdeep.so"])
    depends(
        tmp_path / "libtop.so",
        "int t(void){return 1;}",
        tmp_path / "a",
        ["libmid.so"],
        *old_tags("/a"),
    )
    found = ldso.Loader(str(tmp_path)).closure(["/libtop.so"])
    assert found.libraries["libdeep.so"].path == "/a/libdeep.so"


def test_runpath_is_not_inherited(tmp_path):
    tree_with_two_copies(tmp_path)
    depends(tmp_path / "a/libmid.so", "int m(void){return 1;}", tmp_path / "a", ["libdeep.so"])
    depends(
        tmp_path / "libtop.so",
        "int t(void){return 1;}",
        tmp_path / "a",
        ["libmid.so"],
        *new_tags("/a"),
    )
    found = ldso.Loader(str(tmp_path)).closure(["/libtop.so"])
    assert found.libraries["libmid.so"].path == "/a/libmid.so"
    assert found.missing == {"libdeep.so": "/a/libmid.so"}


def test_runpath_of_the_requester_switches_rpath_off(tmp_path):
    tree_with_two_copies(tmp_path)
    depends(
        tmp_path / "a/libmid.so",
        "int m(void){return 1;}",
        tmp_path / "a",
        ["libdeep.so"],
        *new_tags("/b"),
    )
    depends(
        tmp_path / "libtop.so",
        "int t(void){return 1;}",
        tmp_path / "a",
        ["libmid.so"],
        *old_tags("/a"),
    )
    found = ldso.Loader(str(tmp_path)).closure(["/libtop.so"])
    assert found.libraries["libdeep.so"].path == "/b/libdeep.so"


def test_library_path_comes_after_rpath_and_before_runpath(tmp_path):
    tree_with_two_copies(tmp_path)
    for tag, flags in (("old", old_tags("/a")), ("new", new_tags("/a"))):
        depends(
            tmp_path / f"lib{tag}.so",
            "int t(void){return 1;}",
            tmp_path / "a",
            ["libdeep.so"],
            *flags,
        )
    loader = ldso.Loader(str(tmp_path), ["/b"])
    assert loader.closure(["/libold.so"]).libraries["libdeep.so"].path == "/a/libdeep.so"
    assert loader.closure(["/libnew.so"]).libraries["libdeep.so"].path == "/b/libdeep.so"


def test_origin_is_the_directory_before_symlinks(tmp_path):
    tree_with_two_copies(tmp_path)
    depends(
        tmp_path / "a/libtop.so",
        "int t(void){return 1;}",
        tmp_path / "a",
        ["libdeep.so"],
        *new_tags("$ORIGIN"),
    )
    os.symlink("../a/libtop.so", tmp_path / "b/libtop.so")
    found = ldso.Loader(str(tmp_path)).closure(["/b/libtop.so"])
    assert found.libraries["libdeep.so"].path == "/b/libdeep.so"


def test_real_loader_agrees_on_rpath_runpath_and_origin(tmp_path):
    tree_with_two_copies(tmp_path)
    depends(
        tmp_path / "a/libmid.so",
        "int m(void){return 1;}",
        tmp_path / "a",
        ["libdeep.so"],
        *new_tags("$ORIGIN/../b"),
    )
    for name, flags in (("old", old_tags(tmp_path / "a")), ("new", new_tags(tmp_path / "a"))):
        program = elf_forge.compile_c(tmp_path / name, "int main(void){return 0;}", "-Wl,--no-as-needed",
                                      *link(tmp_path / "a", "libmid.so", "libdeep.so"), *flags)  # fmt: skip
        shown = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        expected = dict(re.findall(r"(libmid.so|libdeep.so) => (/\S+)", shown))
        found = ldso.Loader("/").closure([program]).libraries
        assert {soname: os.path.normpath(found[soname].path) for soname in expected} == {
            soname: os.path.normpath(path) for soname, path in expected.items()
        }


def test_absolute_symlink_is_resolved_inside_the_root(tmp_path):
    elf_forge.library(tmp_path / "opt/real/libx.so")
    os.makedirs(tmp_path / "usr/lib")
    os.symlink("/opt/real", tmp_path / "usr/lib/linked")
    os.symlink("/etc/passwd", tmp_path / "usr/lib/escape")
    loader = ldso.Loader(str(tmp_path))
    assert loader.usable("/usr/lib/linked/libx.so") == "/opt/real/libx.so"
    assert loader.place("/usr/lib/escape") == "/etc/passwd"
    assert not os.path.exists(loader.host("/etc/passwd"))
    assert loader.place("/../../../x/../../y") == "/y"


def test_symlink_loop_and_endless_paths_end(tmp_path):
    os.symlink("/b", tmp_path / "a")
    os.symlink("/a", tmp_path / "b")
    os.symlink("grow/x", tmp_path / "grow")
    loader = ldso.Loader(str(tmp_path))
    for path in ("/a", "/grow", "/x" * 5000):
        with pytest.raises(elf.ElfError):
            loader.place(path)
    assert loader.usable("/a") is None


def test_library_of_another_machine_is_passed_over(tmp_path):
    tree_with_two_copies(tmp_path)
    with open(tmp_path / "a/libdeep.so", "r+b") as file:
        file.seek(18)
        file.write(struct.pack("<H", 8))  # MIPS
    assert ldso.Loader(str(tmp_path), ["/a", "/b"]).find("libdeep.so", []) == "/b/libdeep.so"


def test_missing_library_is_named_with_who_asked(tmp_path):
    tree_with_two_copies(tmp_path)
    depends(tmp_path / "libtop.so", "int t(void){return 1;}", tmp_path / "a", ["libdeep.so"])
    found = ldso.Loader(str(tmp_path)).closure(["/libtop.so", "/absent.so"])
    assert found.missing == {"libdeep.so": "/libtop.so", "/absent.so": ""}


def old_cache(entries, flags=0x303):
    strings, table = b"", b""
    for name, path in entries:
        table += struct.pack("<iII", flags, len(strings), len(strings) + len(name) + 1)
        strings += name.encode() + b"\0" + path.encode() + b"\0"
    return b"ld.so-1.7.0\0" + struct.pack("<I", len(entries)) + table + strings


def new_cache(entries, flags=0x303, hwcap=0):
    start, strings, table = 48 + 24 * len(entries), b"", b""
    for name, path in entries:
        at = start + len(strings)
        table += struct.pack("<iIIIQ", flags, at, at + len(name) + 1, 0, hwcap)
        strings += name.encode() + b"\0" + path.encode() + b"\0"
    head = b"glibc-ld.so.cache1.1" + struct.pack("<II", len(entries), len(strings)) + b"\0" * 20
    return head + table + strings


ENTRIES = [("liba.so.1", "/opt/liba.so.1"), ("libb.so", "/usr/lib/libb.so")]


def test_both_cache_formats_are_read():
    assert ldso.parse_cache(old_cache(ENTRIES), "x86_64") == dict(ENTRIES)
    assert ldso.parse_cache(new_cache(ENTRIES), "x86_64") == dict(ENTRIES)
    old = old_cache(ENTRIES[:1])
    padded = old + b"\0" * (-len(old) % 8)
    # Both in one file, as ldconfig wrote it until 2.31: the newer one counts.
    both = b"ld.so-1.7.0\0" + struct.pack("<I", 0) + new_cache(ENTRIES)
    assert padded
    assert ldso.parse_cache(both, "x86_64") == dict(ENTRIES)


def test_cache_entries_for_other_machines_and_hwcaps_are_left_out():
    assert ldso.parse_cache(new_cache(ENTRIES, flags=0xA03), "x86_64") == {}
    assert ldso.parse_cache(new_cache(ENTRIES, hwcap=1 << 62), "x86_64") == {}


@settings(max_examples=300, deadline=None)
@given(
    start=st.sampled_from([old_cache(ENTRIES), new_cache(ENTRIES)]),
    changes=st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=8)), max_size=6),
    keep=st.integers(0, 300),
)
def test_mutated_cache_never_raises(start, changes, keep):
    data = bytearray(start)
    for at, value in changes:
        data[at : at + len(value)] = value
    found = ldso.parse_cache(bytes(data[:keep]), "x86_64")
    assert all(path.startswith("/") for path in found.values())


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=400))
def test_any_bytes_as_cache_are_harmless(data):
    ldso.parse_cache(b"glibc-ld.so.cache1.1" + data, "x86_64")
    ldso.parse_cache(b"ld.so-1.7.0\0" + data, "x86_64")
