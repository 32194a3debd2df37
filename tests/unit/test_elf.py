"""host.elf: reads what readelf reads, and survives whatever a file contains."""

import contextlib
import os
import re
import socket
import struct
import subprocess
import time

import elf_forge
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairlead.host import elf

LIBMPI = f"/usr/lib/{elf_forge.TRIPLET}/libmpi.so.40"
LIBC = f"/usr/lib/{elf_forge.TRIPLET}/libc.so.6"
needs_openmpi = pytest.mark.skipif(not os.path.exists(LIBMPI), reason="no OpenMPI on this machine")


def readelf(option, path):
    return subprocess.run(
        ["readelf", "-W", option, path], capture_output=True, text=True, check=True
    ).stdout


def read_all(path):
    """Touch everything that the reader offers."""
    with elf.Reader(path) as reader:
        symbols = list(reader.symbols())
        return (
            reader.elf,
            reader.needs(),
            reader.definitions(),
            symbols,
            reader.paths(),
            reader.contains(b"x"),
            reader.search(re.compile(b"GLIBC")),
            [reader.text(symbol) for symbol in symbols],
        )


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A library with versions, needs, DT_RPATH and both hash tables."""
    place = tmp_path_factory.mktemp("sample")
    script = place / "map"
    script.write_text("V1 { global: one; local: *; };\nV2 { global: two; data; } V1;\n")
    text = (
        'int one(void){return puts("/opt/x/lib");} int two(void){return 2;} char data[12]="hello";'
    )
    return elf_forge.library(
        place / "libsample.so.1",
        text,
        f"-Wl,--version-script={script}",
        "-Wl,-rpath,$ORIGIN/../x:/y,--disable-new-dtags,--hash-style=both,--build-id=sha1",
    )


@needs_openmpi
def test_headers_are_those_that_readelf_shows():
    found = elf.read(LIBMPI)
    shown = readelf("-d", LIBMPI)
    assert list(found.needed) == re.findall(r"NEEDED.*\[(.+)\]", shown)
    assert found.soname == re.search(r"SONAME.*\[(.+)\]", shown)[1]
    assert found.runpath == re.search(r"RUNPATH.*\[(.+)\]", shown)[1]
    assert found.build_id == re.search(r"Build ID: (\w+)", readelf("-n", LIBMPI))[1]


@pytest.mark.parametrize("path", [LIBC, pytest.param(LIBMPI, marks=needs_openmpi)])
def test_symbols_and_versions_are_those_that_readelf_shows(path):
    pattern = r"^ *\d+: \w+ +\w+ \w+ +(?:GLOBAL|WEAK|UNIQUE) +\w+ +(\w+) (\S+)"
    shown = {
        (
            name.partition("@")[0],
            name.lstrip("@").rpartition("@")[2] if "@" in name else "",
            section != "UND",
        )
        for section, name in re.findall(pattern, readelf("--dyn-syms", path), re.MULTILINE)
    }
    with elf.Reader(path) as reader:
        found = {(item.name, item.version, item.defined) for item in reader.symbols()}
        defined = set(reader.definitions().values())
    # readelf prints versions as symbols too (absolute ones, named like their version).
    assert {item for item in found if item[0] not in defined} == {
        item for item in shown if item[0] not in defined
    }


def test_versions_rpath_and_data_of_a_library_are_read(sample):
    with elf.Reader(sample) as reader:
        assert reader.elf.soname == "libsample.so.1"
        assert reader.elf.rpath == "$ORIGIN/../x:/y"
        assert reader.elf.runpath == ""
        assert sorted(reader.definitions().values()) == ["V1", "V2"]
        symbols = {symbol.name: symbol for symbol in reader.symbols()}
        assert (symbols["one"].version, symbols["two"].version) == ("V1", "V2")
        assert symbols["data"].is_object
        assert reader.text(symbols["data"]) == "hello"
        assert symbols["puts"].library == "libc.so.6"
        assert not symbols["puts"].defined
        assert "/opt/x/lib" in reader.paths()
        assert any(need.library == "libc.so.6" for need in reader.needs())


@pytest.mark.parametrize("style", ["sysv", "gnu"])
def test_either_hash_table_tells_the_number_of_symbols(tmp_path, style):
    path = elf_forge.library(tmp_path / "libh.so", "int a(void){return 1;} int b(void){return 2;}",
                             f"-Wl,--hash-style={style}")  # fmt: skip
    with elf.Reader(path) as reader:
        assert {"a", "b"} <= {symbol.name for symbol in reader.symbols() if symbol.defined}


@pytest.mark.parametrize(
    ("flags", "static"),
    [(["-static"], True), (["-static-pie"], True), ([], False), (["-no-pie"], False)],
)
def test_static_programs_are_told_from_dynamic_ones(tmp_path, flags, static):
    path = elf_forge.compile_c(tmp_path / "program", "int main(void){return 0;}", *flags)
    assert elf.read(path).static is static


def test_library_is_no_static_program(sample):
    assert not elf.read(sample).static


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x01\x01" + b"\0" * 90,
                                     b"\x7fELF\x02\x02" + b"\0" * 90])  # fmt: skip
def test_other_files_are_not_elf(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(elf.NotElf):
        elf.read(str(path))


def test_fifo_and_directory_are_refused_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(elf.NotElf):
            elf.read(str(path))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        with pytest.raises(OSError):
            elf.read(str(tmp_path / "s"))


def tags(data):
    """Return {tag: offset of its value} of the dynamic section."""
    offset, count = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    for index in range(count):
        kind, _, place, _, _, size, _, _ = struct.unpack_from(
            "<IIQQQQQQ", data, offset + 56 * index
        )
        if kind == elf.PT_DYNAMIC:
            return {
                struct.unpack_from("<Q", data, at)[0]: at + 8
                for at in range(place, place + size, 16)
            }
    raise AssertionError("no dynamic section")


def damaged(sample, tmp_path, change):
    with open(sample, "rb") as file:
        data = bytearray(file.read())
    change(data)
    path = tmp_path / "damaged"
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize(
    "tag", [elf.DT_STRTAB, elf.DT_SYMTAB, elf.DT_HASH, elf.DT_VERSYM, elf.DT_VERNEED, elf.DT_VERDEF, elf.DT_SONAME,
            elf.DT_STRSZ]
)  # fmt: skip
@pytest.mark.parametrize("value", [1 << 63, (1 << 64) - 1, 0x7FFFFFFF0])
def test_pointer_outside_the_file_is_damage(sample, tmp_path, tag, value):
    def point(data):
        struct.pack_into("<Q", data, tags(data)[tag], value)

    path = damaged(sample, tmp_path, point)
    if tag == elf.DT_STRSZ:  # a larger string table is harmless: strings still end inside the file
        read_all(path)
        return
    with pytest.raises(elf.Damaged):
        read_all(path)


def test_program_header_count_beyond_the_limit_is_damage(sample, tmp_path):
    path = damaged(sample, tmp_path, lambda data: struct.pack_into("<H", data, 56, 0xFFFF))
    with pytest.raises(elf.Damaged):
        elf.read(path)


def test_version_chain_that_runs_in_a_circle_ends(sample, tmp_path):
    def circle(data):
        with elf.Reader(sample) as reader:
            start = reader._offset(reader._tags[elf.DT_VERNEED])
        struct.pack_into("<H", data, start + 2, 0xFFFF)  # vn_cnt
        first = start + struct.unpack_from("<I", data, start + 8)[0]
        struct.pack_into("<I", data, first + 12, 0xFFFFFFF0)  # vna_next: beyond the file
        struct.pack_into("<I", data, start + 12, 0)

    with pytest.raises(elf.Damaged):
        read_all(damaged(sample, tmp_path, circle))


def test_hash_chain_without_end_is_damage(tmp_path):
    path = elf_forge.library(tmp_path / "libg.so", "int a(void){return 1;}", "-Wl,--hash-style=gnu")

    def unend(data):
        with elf.Reader(path) as reader:
            start = reader._offset(reader._tags[elf.DT_GNU_HASH])
        buckets, _, bloom, _ = struct.unpack_from("<IIII", data, start)
        first = start + 16 + 8 * bloom
        struct.pack_into("<I", data, first, 0x7FFFFFFF)
        assert buckets

    with pytest.raises(elf.Damaged):
        read_all(damaged(path, tmp_path, unend))


def test_overlapping_segments_are_searched_once(sample, tmp_path):
    def overlap(data):
        offset = struct.unpack_from("<Q", data, 32)[0]
        for index in range(struct.unpack_from("<H", data, 56)[0]):
            struct.pack_into(
                "<IIQQQQ", data, offset + 56 * index, elf.PT_LOAD, 4, 0, 0, 0, len(data)
            )

    with elf.Reader(damaged(sample, tmp_path, overlap)) as reader:
        assert sum(end - start for start, end in reader._constants()) <= reader.size


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=9)), max_size=8),
    keep=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_mutated_file_raises_only_elf_errors_and_ends_soon(sample, tmp_path, changes, keep):
    def mutate(data):
        del data[int(len(data) * keep) :]
        for place, value in changes:
            # Half of the changes hit the headers and tables, which lie in the first 2 KiB.
            limit = len(data) if place > 0.5 else min(len(data), 2048)
            at = int(place * limit)
            data[at : at + len(value)] = value[: max(0, len(data) - at)]

    path = damaged(sample, tmp_path, mutate)
    begin = time.monotonic()
    with contextlib.suppress(elf.ElfError):
        read_all(path)
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize("style", ["gnu", "sysv"])
def test_program_that_exports_nothing_still_tells_what_it_asks_for(tmp_path, style):
    """Its .gnu.hash is empty and says nothing of the number of symbols; its relocations do."""
    path = elf_forge.compile_c(
        tmp_path / "program",
        "int main(void) { return rand() + (int)(long)&malloc; }",
        f"-Wl,--hash-style={style}",
        "-include", "stdlib.h",
    )  # fmt: skip
    with elf.Reader(path) as reader:
        wanted = {want.symbol for _, want in reader.wants({"libc.so.6"})}
        asked = {symbol.name for symbol in reader.symbols() if not symbol.defined}
    assert {"rand", "malloc", "__libc_start_main"} <= wanted <= asked
