"""glibc.patch: rewritten files run, say the same otherwise, and hostile ones are refused."""

import contextlib
import os
import re
import shutil
import struct
import subprocess
import time

import elf_forge
import glibc_forge as forge
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairlead.glibc import binding, dynamic, patch, polyfill, versions
from fairlead.host import elf

LAYOUTS = {
    "plain": (),
    "no-pie": ("-no-pie",),
    "one-text-segment": ("-Wl,-z,noseparate-code",),
    "pages-of-64K": ("-Wl,-z,max-page-size=65536",),
    "pages-of-2M": ("-Wl,-z,max-page-size=2097152",),
    "both-hashes": ("-Wl,--hash-style=both",),
    "sysv-hash": ("-Wl,--hash-style=sysv",),
    "relr": ("-Wl,-z,pack-relative-relocs",),
    "relr-no-pie-now": ("-Wl,-z,pack-relative-relocs,-z,now",),
    "lazy-norelro": ("-Wl,-z,lazy,-z,norelro",),
    "stripped": ("-s",),
}
BSS = "char big[3 << 20]; int use_big(void) { return big[5]; }"


def put(decision, directory, search):
    (directory / polyfill.SONAME).write_bytes(polyfill.write(decision, search))
    shutil.copy(forge.IMPLEMENTATION, directory)


def rewrite(source, target, decision, search="", **more):
    with open(source, "rb") as file:
        data = file.read()
    new = patch.patch(data, os.path.basename(source), decision, search, **more)
    with open(target, "wb") as file:
        file.write(new)
    os.chmod(target, 0o755)
    return data, new


@pytest.mark.parametrize(
    ("layout", "extra"),
    [
        *((name, "") for name in LAYOUTS),
        *((name, BSS) for name in ("plain", "no-pie", "pages-of-64K")),
    ],
)
def test_program_of_any_layout_runs_bound(tmp_path, layout, extra):
    source = forge.program(tmp_path / "source", *LAYOUTS[layout], extra=extra)
    decision = forge.decide(source)
    assert decision.expand == layout.startswith("relr")
    rewrite(source, tmp_path / "program", decision, str(tmp_path))
    put(decision, tmp_path, str(tmp_path))
    done = subprocess.run(
        [tmp_path / "program"], capture_output=True, text=True, env={"LD_BIND_NOW": "1"}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 1 0 8\n", "")
    trace = subprocess.run(
        [tmp_path / "program"], capture_output=True, text=True,
        env={"LD_TRACE_LOADED_OBJECTS": "1", "LD_WARN": "1", "LD_BIND_NOW": "1", "LD_VERBOSE": "1"},
    )  # fmt: skip
    assert f"{polyfill.SONAME} (GLIBC_2.34)" in trace.stdout
    assert (
        "libc.so.6 (GLIBC_2.34)" not in trace.stdout.split("Version information")[1].split("lib")[0]
    )


def everything(path_or_data, name="x"):
    data = path_or_data if isinstance(path_or_data, bytes) else None
    with elf.Reader(name if data else str(path_or_data), data) as reader:
        return reader.elf, reader.needs(), [s._replace(library="") for s in reader.symbols()]


def test_only_what_must_change_does(tmp_path):
    source = forge.program(tmp_path / "source", "-Wl,-rpath,/old,--build-id=sha1")
    decision = forge.decide(source)
    data, new = rewrite(source, tmp_path / "program", decision, "/down")
    before, after = everything(data), everything(new)
    assert after[0].needed == (polyfill.SONAME, *before[0].needed)
    assert (after[0].rpath, after[0].runpath) == ("/down", "")
    same = ("type", "machine", "interp", "soname", "build_id", "pie")
    assert [getattr(after[0], name) for name in same] == [getattr(before[0], name) for name in same]
    assert after[2] == before[2]
    moved = {need for need in before[1] if (need.library, need.version) in decision.redirect}
    assert moved
    assert {need._replace(library=polyfill.SONAME) for need in moved} == {
        need for need in after[1] if need.library == polyfill.SONAME
    }
    assert set(before[1]) - moved == {n for n in after[1] if n.library != polyfill.SONAME}
    # e_phoff, e_phnum and the section headers, which lie at the end; nothing else of the file moves
    assert data[:32] == new[:32]
    (headers,) = struct.unpack_from("<Q", data, 40)
    assert headers > len(data) - 4096
    assert data[64:headers] == new[64:headers]


def sections(path):
    words = ["readelf", "-SW", path]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    found = re.findall(r"] (\S+) +(\S+) +([0-9a-f]{8,}) ([0-9a-f]+) ([0-9a-f]+)", done.stdout)
    return {name: (kind, int(at, 16), int(size, 16)) for name, kind, at, _, size in found}


@pytest.mark.parametrize("layout", ["plain", "relr", "pages-of-64K"])
def test_sections_are_where_the_dynamic_section_says(tmp_path, layout):
    source = forge.program(tmp_path / "source", *LAYOUTS[layout])
    _, new = rewrite(source, tmp_path / "program", forge.decide(source), "/down")
    old = dynamic.parse(new, "program")
    (own,) = [item for item in old.segments if item.type == dynamic.PT_DYNAMIC]
    found = sections(tmp_path / "program")
    assert found[".dynamic"][1:] == (own.address, own.size)
    assert found[".dynstr"][1:] == (old.tag(elf.DT_STRTAB), old.tag(elf.DT_STRSZ))
    assert found[".gnu.version_r"][1] == old.tag(elf.DT_VERNEED)
    assert found[".text"] == sections(source)[".text"]
    # Linkers of the image's age stop at a type that they do not know.
    assert "RELR" not in {kind for kind, _, _ in found.values()}


@pytest.mark.parametrize("damage", ["entry size", "beyond the end", "no symbols", "in the code"])
def test_section_headers_that_cannot_be_trusted_are_dropped(tmp_path, damage):
    source = forge.program(tmp_path / "source")
    with open(source, "rb") as file:
        data = bytearray(file.read())
    (start,) = struct.unpack_from("<Q", data, 40)
    if damage == "entry size":
        struct.pack_into("<H", data, 58, 40)
    elif damage == "beyond the end":
        struct.pack_into("<Q", data, 40, len(data) - 64)
    elif damage == "in the code":
        struct.pack_into("<Q", data, 40, 64)
    else:
        count = struct.unpack_from("<H", data, 60)[0]
        for index in range(count):
            struct.pack_into("<I", data, start + 64 * index + 4, 0)
    new = patch.patch(bytes(data), "program", forge.decide(source), str(tmp_path))
    assert struct.unpack_from("<Q", new, 40) == (0,)
    assert struct.unpack_from("<HH", new, 60) == (0, 0)
    (tmp_path / "program").write_bytes(new)
    os.chmod(tmp_path / "program", 0o755)
    put(forge.decide(source), tmp_path, str(tmp_path))
    assert subprocess.run([tmp_path / "program"], stdout=subprocess.DEVNULL).returncode == 0


def test_programs_are_linked_to_what_was_rewritten(tmp_path):
    """As in a container: the library asks the polyfill for versions, the program must not."""
    source = elf_forge.library(
        tmp_path / "source/libx.so.1",
        "#include <pthread.h>\nvoid *t(void *p) { return p; }\n"
        "int x(void) { pthread_t a; return pthread_create(&a, 0, t, 0) || pthread_join(a, 0); }",
    )
    decision = forge.decide(source)
    rewrite(source, tmp_path / "libx.so.1", decision, str(tmp_path))
    put(decision, tmp_path, str(tmp_path))
    main = '#include <stdio.h>\nint x(void); int main(void) { return printf("%d\\n", x()) < 0; }'
    program = elf_forge.compile_c(
        tmp_path / "program", main, "-Wl,--fatal-warnings", f"-Wl,-rpath,{tmp_path}", f"-Wl,{tmp_path}/libx.so.1",
    )  # fmt: skip
    assert subprocess.run([program], capture_output=True, text=True).stdout == "0\n"
    shown = subprocess.run(["readelf", "-dVW", program], capture_output=True, text=True).stdout
    assert "libx.so.1" in shown
    assert polyfill.SONAME not in shown


def test_file_that_needs_nothing_stays_the_same_object(tmp_path):
    source = elf_forge.library(tmp_path / "libx.so.1", 'int f(void){return puts("x");}')
    with open(source, "rb") as file:
        data = file.read()
    decision = forge.decide(source)
    assert decision.action == "nothing"
    assert patch.patch(data, "libx.so.1", decision) is data


def test_compiled_in_paths_lead_to_nothing_and_nothing_moves():
    data = b"\0/usr/lib/x/ucx\0/usr/lib/x/ucx\0/usr/lib/x/ucx/more\0a/usr/lib/x/ucx\0"
    hidden = patch.hide(data, ("/usr/lib/x/ucx",))
    nowhere = b"/.fairlead/no/"
    assert hidden == data.replace(
        b"\0/usr/lib/x/ucx\0/usr/lib/x/ucx\0", b"\0%b\0%b\0" % (nowhere, nowhere)
    )
    assert patch.hide(data, ()) is data


def test_path_too_short_to_lead_elsewhere_is_refused():
    with pytest.raises(elf.ElfError, match=r"^/lib/ucx: too short to be led elsewhere$"):
        patch.hide(b"\0/lib/ucx\0", ("/lib/ucx",))


def test_same_bytes_every_time(tmp_path):
    source = forge.program(tmp_path / "source")
    decision = forge.decide(source)
    assert rewrite(source, tmp_path / "a", decision, "/d") == rewrite(
        source, tmp_path / "b", decision, "/d"
    )


def test_names_become_others_everywhere(tmp_path):
    inner = elf_forge.library(tmp_path / "libinner.so.1", "int inner(void){return 4;}",
                              f"-Wl,--version-script={script(tmp_path)}")  # fmt: skip
    outer = elf_forge.library(
        tmp_path / "libouter.so.1",
        "int inner(void); int outer(void){return inner()+1;}",
        f"-Wl,{inner}",
    )
    names = {"libinner.so.1": "fairlead-libinner.so.1", "libouter.so.1": "fairlead-libouter.so.1"}
    decision = forge.decide(inner)
    for source in (inner, outer):
        rewrite(
            source, tmp_path / names[os.path.basename(source)], decision, str(tmp_path), names=names
        )
        os.unlink(source)
    found, needs, _ = everything(tmp_path / names["libouter.so.1"])
    assert found.soname == names["libouter.so.1"]
    assert names["libinner.so.1"] in found.needed
    assert ("fairlead-libinner.so.1", "V1") in {(need.library, need.version) for need in needs}
    code = f"import ctypes; print(ctypes.CDLL({str(tmp_path / names['libouter.so.1'])!r}).outer())"
    done = subprocess.run(["/usr/bin/python3", "-c", code], capture_output=True, text=True)
    assert done.stdout == "5\n", done.stderr


def script(tmp_path):
    path = tmp_path / "map"
    path.write_text("V1 { global: inner; local: *; };\n")
    return path


def test_symbol_leaves_a_version_that_the_image_has(tmp_path):
    """pthread_create@GLIBC_2.34 is not there while other symbols of 2.34 are: only it is renumbered."""
    source = forge.program(tmp_path / "source")
    family = forge.as_old_as((2, 36))
    kept = {name: found for name, found in family.symbols.items() if name != "pthread_create"}
    kept["pthread_create"] = tuple(
        item for item in family.symbols["pthread_create"] if item.version != "GLIBC_2.34"
    )
    family = family._replace(symbols=kept)
    decision = binding.plan(versions.read_needs([("x", source)]), family, forge.offers())
    assert decision.remap == {("libc.so.6", "GLIBC_2.34", "pthread_create")}
    _, new = rewrite(source, tmp_path / "program", decision, str(tmp_path))
    put(decision, tmp_path, str(tmp_path))
    with elf.Reader("x", new) as reader:
        led = {s.name for s in reader.symbols() if s.library == polyfill.SONAME}
        stay = {
            s.name
            for s in reader.symbols()
            if s.library == "libc.so.6" and s.version == "GLIBC_2.34"
        }
    assert led == {"pthread_create"}
    assert "pthread_join" in stay
    done = subprocess.run([tmp_path / "program"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1 1 0 8\n")


def test_relative_relocations_are_all_written_out(tmp_path):
    entries = ",".join("&a" if i % 3 else "0" for i in range(200))
    text = (
        f"static int a; int *all[200] = {{{entries}}}; int **where(void) {{ puts(0); return all; }}"
    )
    source = elf_forge.library(
        tmp_path / "librelr.so.1", text, "-Wl,-z,pack-relative-relocs", "-lc"
    )
    plain = elf_forge.library(tmp_path / "libplain.so.1", text, "-lc")
    decision = forge.decide(source)
    assert decision.expand
    _, new = rewrite(source, tmp_path / "out", decision)
    found = dynamic.parse(new, "out")
    assert found.tag(elf.DT_RELR) is None
    with open(plain, "rb") as file:
        wanted = dynamic.parse(file.read(), "plain")
    assert found.tag(dynamic.DT_RELACOUNT) == wanted.tag(dynamic.DT_RELACOUNT)
    assert found.tag(elf.DT_RELASZ) == wanted.tag(elf.DT_RELASZ)
    assert found.tag(dynamic.DT_RELACOUNT) > 130
    assert not any(need.version == "GLIBC_ABI_DT_RELR" for need in everything(new)[1])


def test_library_without_section_headers_is_rewritten(tmp_path):
    source = forge.program(tmp_path / "source")
    with open(source, "rb") as file:
        data = bytearray(file.read())
    struct.pack_into("<Q", data, 40, 0)
    struct.pack_into("<HH", data, 60, 0, 0)
    (tmp_path / "bare").write_bytes(data)
    decision = forge.decide(tmp_path / "bare")
    rewrite(tmp_path / "bare", tmp_path / "program", decision, str(tmp_path))
    put(decision, tmp_path, str(tmp_path))
    done = subprocess.run([tmp_path / "program"], capture_output=True, text=True)
    assert done.stdout == "1 1 0 8\n"


def test_library_without_versions_gets_a_search_path(tmp_path):
    source = elf_forge.library(tmp_path / "libx.so.1", "int f(void) { return 3; }", "-nostdlib")
    _, new = rewrite(source, tmp_path / "out.so", forge.decide(source), "/somewhere")
    assert everything(new)[0].rpath == "/somewhere"
    code = f"import ctypes; print(ctypes.CDLL({str(tmp_path / 'out.so')!r}).f())"
    assert subprocess.run(["/usr/bin/python3", "-c", code], capture_output=True).stdout == b"3\n"


def test_wrong_machine_is_refused(tmp_path):
    source = forge.program(tmp_path / "source")
    decision = forge.decide(source)
    with open(source, "rb") as file:
        data = bytearray(file.read())
    struct.pack_into("<H", data, 18, 183)
    with pytest.raises(elf.ElfError, match=r"libx.*machine 183"):
        patch.patch(bytes(data), "libx.so", decision)


def test_file_that_was_not_planned_for_is_refused(tmp_path):
    """Written as it is, it would die in the container with a version that is not found."""
    planned = elf_forge.library(tmp_path / "libx.so.1", 'int f(void){return puts("x");}')
    with open(forge.program(tmp_path / "other"), "rb") as file:
        data = file.read()
    with pytest.raises(elf.ElfError, match=r"other: needs GLIBC_2\.\d+, which is not in the plan"):
        patch.patch(data, "other", forge.decide(planned))


def test_what_prelink_left_is_taken_out(tmp_path):
    source = forge.program(tmp_path / "source")
    with open(source, "rb") as file:
        data = bytearray(file.read())
    struct.pack_into(
        "<q", data, place_of(bytes(data), 21) - 8, 0x6FFFFDF8
    )  # DT_DEBUG → DT_CHECKSUM
    new = patch.patch(bytes(data), "source", forge.decide(source))
    assert dynamic.parse(bytes(data), "x").tag(0x6FFFFDF8) is not None
    assert dynamic.parse(new, "x").tag(0x6FFFFDF8) is None


# -- hostile files ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    place = tmp_path_factory.mktemp("sample")
    source = forge.program(place / "source", "-Wl,-z,pack-relative-relocs", "-s")
    with open(source, "rb") as file:
        return file.read(), forge.decide(source)


def place_of(data, tag):
    """Return the offset in the file of the value of a dynamic entry."""
    found = dynamic.parse(data, "x")
    (segment,) = [item for item in found.segments if item.type == dynamic.PT_DYNAMIC]
    index = [item[0] for item in found.tags].index(tag)
    return segment.offset + 16 * index + 8


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        (elf.DT_STRTAB, 1 << 40),
        (elf.DT_STRSZ, 1 << 40),
        (elf.DT_STRSZ, 0),
        (elf.DT_VERNEED, 1 << 40),
        (elf.DT_VERNEEDNUM, 77),
        (elf.DT_RELR, 1 << 40),
        (dynamic.DT_RELRSZ, 7),
        (elf.DT_RELASZ, 25),
        (elf.DT_RELA, 1 << 62),
    ],
)
def test_pointer_outside_the_file_is_damage(sample, tag, value):
    data, decision = sample
    broken = bytearray(data)
    struct.pack_into("<Q", broken, place_of(data, tag), value)
    with pytest.raises(elf.Damaged, match=r"libx\.so"):
        patch.patch(bytes(broken), "libx.so", decision)


@pytest.mark.parametrize(
    ("field", "value"),
    [(8, 1 << 62), (16, 0xFFFFFFFFFFFFF000), (40, 1 << 62), (32, 1 << 50), (48, 3), (16, 0)],
    ids=["offset", "address", "memory", "size", "align", "order"],
)
def test_segments_that_loaders_could_disagree_about_are_damage(sample, field, value):
    data, decision = sample
    found = dynamic.parse(data, "x")
    start = struct.unpack_from("<Q", data, 32)[0]
    last = max(i for i, item in enumerate(found.segments) if item.type == dynamic.PT_LOAD)
    broken = bytearray(data)
    struct.pack_into("<Q", broken, start + 56 * last + field, value)
    with pytest.raises(elf.Damaged):
        patch.patch(bytes(broken), "libx.so", decision)


def test_circle_of_versions_ends(sample):
    data, decision = sample
    found = dynamic.parse(data, "x")
    start = found.offset(found.tag(elf.DT_VERNEED), 16)
    broken = bytearray(data)
    struct.pack_into("<I", broken, start + 16 + 12, (1 << 32) - 16)  # the next one lies before
    with pytest.raises(elf.Damaged):
        patch.patch(bytes(broken), "libx.so", decision)


@pytest.mark.parametrize(
    "content", [b"", b"\x7fELF", b"#!/bin/sh\n" * 20, b"\x7fELF\x01\x01" + bytes(90)]
)
def test_other_files_are_not_elf(sample, content):
    with pytest.raises(elf.NotElf):
        patch.patch(content, "libx.so", sample[1])


CHANGES = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)),
    min_size=1,
    max_size=6,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(CHANGES, st.sampled_from(["headers", "dynamic", "anywhere"]), st.floats(0.1, 1))
def test_mutated_file_gives_a_readable_file_or_an_elf_error_and_soon(sample, changes, where, keep):
    data, decision = sample
    broken = bytearray(data if keep > 0.3 else data[: int(len(data) * keep)])
    found = dynamic.parse(data, "x")
    (segment,) = [item for item in found.segments if item.type == dynamic.PT_DYNAMIC]
    start, size = {
        "headers": (0, 64 + 56 * len(found.segments)),
        "dynamic": (segment.offset, segment.size),
        "anywhere": (0, len(broken)),
    }[where]
    for place, change in changes:
        at = start + int(place * size)
        broken[at : at + len(change)] = change[: max(0, len(broken) - at)]
    begin = time.process_time()
    with contextlib.suppress(elf.ElfError):
        new = patch.patch(bytes(broken), "libx.so", decision, "/d")
        parsed = dynamic.parse(new, "libx.so")
        old = dynamic.parse(bytes(broken), "libx.so")
        assert len(parsed.segments) == len(old.segments) + 1
        assert parsed.string(parsed.tag(elf.DT_RPATH)) == "/d"
    assert time.process_time() - begin < 2
