"""Squashfs, SIF and bare roots: what their own bytes say, and that damage is always one error."""

from __future__ import annotations

import json
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead import errors
from fairlead.image import manifest, rootconfig, sif, squashfs

AMD64 = manifest.Platform("linux", "amd64")


def block(**over):
    fields = {
        "magic": b"hsqs", "inodes": 7, "time": 0, "block": 131072, "fragments": 0, "compressor": 1,
        "log": 17, "flags": 0, "ids": 1, "major": 4, "minor": 0, "root": 0, "used": 4096,
        "id_table": 0, "xattrs": (1 << 64) - 1, "inode_table": 0, "dirs": 0, "frags": 0, "export": 0,
    }  # fmt: skip
    return struct.pack("<4sIIIIHHHHHHQQQQQQQQ", *{**fields, **over}.values())


def test_superblock_tells_size_inodes_and_attributes():
    assert squashfs.superblock(block(), 4096, "x") == squashfs.Superblock(7, 4096, False)
    assert squashfs.superblock(block(xattrs=96), 5000, "x").has_xattrs


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "holds no squashfs"),
        (block()[:95], "holds no squashfs"),
        (block(magic=b"sqsh"), "holds no squashfs"),
        (block(major=3), "is squashfs version 3.0"),
        (block(used=4097), "is cut short: it has 4096 of 4097 bytes"),
        (block(inodes=10_000_001), "has 10000001 inodes, more than 10000000"),
    ],
)
def test_superblock_that_is_wrong_is_named(data, why):
    with pytest.raises(errors.ArchiveError) as caught:
        squashfs.superblock(data, 4096, "x.sqsh")
    assert caught.value.message.startswith("x.sqsh: ")
    assert why in caught.value.message


def sif_file(data):
    fd = os.memfd_create("sif")
    try:
        os.write(fd, data)
        return sif.partition(fd, len(data), "x.sif")
    finally:
        os.close(fd)


def container(count=1, first=128, kind=0x4004, used=1, extra=(1, 2, b"02\0"), offset=1000, size=24):
    head = struct.pack(
        "<32s10s3s3s16s8q", b"#!\n", b"SIF_MAGIC\0", b"01\0", b"02\0", b"", 0, 0, 0, count, first, 0, 0, 0
    )  # fmt: skip
    entry = struct.pack(
        "<iBIII7q128s384s", kind, used, 1, 0, 0, offset, size, 0, 0, 0, 0, 0, b"", struct.pack("<ii3s", *extra)
    )  # fmt: skip
    return (head + entry).ljust(1024, b"\0")


def test_partition_of_a_sif_is_found():
    assert sif_file(container()) == sif.Partition(1000, 24, "amd64")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is cut short"),
        (container()[:700], "its descriptors lie outside"),
        (container()[:42] + b"02\0" + container()[45:], "is no SIF file of version 01"),
        (container(count=5000), "has 5000 descriptors"),
        (container(count=-1), "has -1 descriptors"),
        (container(first=-1), "its descriptors lie outside"),
        (container(first=1 << 62), "its descriptors lie outside"),
        (container(used=0), "has no primary system partition"),
        (container(extra=(1, 3, b"02\0")), "has no primary system partition"),
        (container(extra=(2, 2, b"02\0")), "is ext3, not squashfs"),
        (container(extra=(5, 2, b"02\0")), "is encrypted squashfs, not squashfs"),
        (container(extra=(9, 2, b"02\0")), "is of kind 9, not squashfs"),
        (container(offset=-1), "its root file system lies outside"),
        (container(size=25), "its root file system lies outside"),
        (container(size=0), "its root file system lies outside"),
        (container(kind=0x400A), "holds an OCI image and no partition"),
    ],
)
def test_sif_that_is_wrong_is_named(data, why):
    with pytest.raises(errors.ArchiveError) as caught:
        sif_file(data)
    assert why in caught.value.message


@given(st.data())
def test_any_damage_to_a_sif_is_an_archive_error_or_lies_inside(data):
    whole = bytearray(container())
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = sif_file(bytes(whole))
    except errors.ArchiveError:
        return
    assert 0 < found.offset < found.offset + found.size <= len(whole)


def test_environment_of_a_root_is_read_as_login_reads_it():
    text = "A=1\n# no\n export B='two words'\nC=\"x=y\"\nnot\n=x\n1D=z\nE F=g\nA=2\nH=\n"
    assert rootconfig.variables(text) == (("A", "2"), ("B", "two words"), ("C", "x=y"), ("H", ""))


def configured(environment="", rc=""):
    data = rootconfig.document(environment, rc, AMD64, ())
    return manifest.parse_config(data, "x")


def test_bare_root_has_a_configuration_like_any_image():
    found = configured("PATH=/bin\n")
    assert found.env == (("PATH", "/bin"),)
    assert (found.entrypoint, found.cmd, found.workdir) == ((), (), "")
    assert found.platform == AMD64


@pytest.mark.parametrize(
    ("line", "workdir"),
    [
        ('cd "/srv" && unset OLDPWD || exit 1', "/srv"),
        ('cd "relative" && unset OLDPWD || exit 1', ""),
        ('cd "$HOME" && unset OLDPWD || exit 1', ""),
        ('cd "`id`" && unset OLDPWD || exit 1', ""),
    ],
)
def test_only_enroots_script_becomes_the_entrypoint(line, workdir):
    script = f"{line}\n\nif [ $# -gt 0 ]; then\n    exec 'app' \"$@\"\nelse\n    exec 'app'\nfi\n"
    found = configured(rc=script)
    assert (found.entrypoint, found.workdir) == (("/bin/sh", "/etc/rc"), workdir)
    assert configured(rc=f"{line}\nexec /sbin/init\n").entrypoint == ()


@given(st.text(), st.text())
def test_any_text_of_a_root_gives_a_valid_configuration(environment, rc):
    clean = [text.encode(errors="replace").decode().replace("\0", "") for text in (environment, rc)]
    found = configured(*clean)
    assert json.dumps(found.env)
