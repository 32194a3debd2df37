"""The index of a tar archive: what it finds, and that damage is one error, never another."""

from __future__ import annotations

import io
import os
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead import errors
from fairlead.image import tarindex


def made(members, form=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def file(name, **fields):
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def read(data):
    fd = os.memfd_create("tar")
    try:
        os.write(fd, data)
        return tarindex.read(fd, len(data), "x.tar")
    finally:
        os.close(fd)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_are_found_where_they_lie(form):
    names = ["a", "./b//c", "d" * 90 + "/" + "e" * 90]
    if form != tarfile.USTAR_FORMAT:
        names.append("f/" * 200 + "g" * 300)
    data = made([(file(name), name.encode() * 7) for name in names], form)
    found = read(data).members
    for name in names:
        member = found["/".join(part for part in name.split("/") if part not in {"", "."})]
        assert data[member.offset : member.offset + member.size] == name.encode() * 7


def test_links_lead_to_members():
    table = read(
        made(
            [
                (file("d/a"), b"content"),
                (file("e/hard", type=tarfile.LNKTYPE, linkname="d/a"), b""),
                (file("e/soft", type=tarfile.SYMTYPE, linkname="../e/hard"), b""),
                (file("out", type=tarfile.SYMTYPE, linkname="../x"), b""),
                (file("round", type=tarfile.SYMTYPE, linkname="round"), b""),
            ]
        )
    )
    assert tarindex.follow(table, "e/soft", "x") == table.members["d/a"]
    assert tarindex.follow(table, "absent", "x") is None
    for name in ("out", "round"):
        with pytest.raises(errors.ArchiveError):
            tarindex.follow(table, name, "x")


def test_last_of_a_name_is_found_and_the_name_is_noted():
    table = read(made([(file("a"), b"first"), (file("./a"), b"last!!")]))
    assert table.members["a"].size == 6
    assert table.repeated == {"a"}


def test_sizes_beyond_octal_digits_are_understood():
    data = bytearray(made([(file("a"), b"x" * 512)]))
    data[124:136] = b"\x80" + (512).to_bytes(11, "big")
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    assert read(bytes(data)).members["a"].size == 512


def header(**fields):
    info = file("a", **fields)
    return bytearray(info.tobuf(tarfile.GNU_FORMAT))


def summed(head):
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"x", "cut short, or no tar archive"),
        (b"x" * 512, "is no tar archive"),
        (bytes(header(size=1)), "cut short: an entry goes on to byte 513 of 512"),
        (summed(header()[:124] + b"\xff" * 12 + header()[136:]), "an absurd size"),
        (summed(header()[:124] + b"\x80" + b"\xff" * 11 + header()[136:]), "an absurd size"),
        (summed(header()[:124] + b"-1".rjust(12) + header()[136:]), "damaged at byte 0"),
        (header()[:148] + b"0000001\0" + header()[156:], "checksum of the header at byte 0"),
        (bytes(header(type=b"x", size=2 << 20)), "an extended header has 2097152 bytes"),
        (bytes(header(type=b"x", size=9)) + b"99 path=x".ljust(512, b"\0"), "extended header is damaged"),
        (bytes(header(type=b"x", size=9)) + b"0 path=xx".ljust(512, b"\0"), "extended header is damaged"),
        (bytes(header(type=b"x", size=8)) + b"8 size=\n".ljust(512, b"\0"), "absurd size"),
    ],
)  # fmt: skip
def test_damage_is_named(data, why):
    with pytest.raises(errors.ArchiveError) as caught:
        read(bytes(data))
    assert why in caught.value.message


def test_number_of_entries_is_bounded(monkeypatch):
    monkeypatch.setattr(tarindex, "MAX_ENTRIES", 3)
    with pytest.raises(errors.ArchiveError, match="more than 3 entries"):
        read(made([(file(str(number)), b"") for number in range(4)]))


@settings(max_examples=300)
@given(st.data())
def test_any_damage_is_an_archive_error_or_still_an_archive(data):
    whole = bytearray(made([(file("a" * 120), b"x" * 700), (file("b", type=tarfile.SYMTYPE, linkname="c" * 120), b"")]))  # fmt: skip
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        table = read(cut)
    except errors.ArchiveError as error:
        assert error.message.isprintable()  # noqa: PT017 - either outcome is fine, a traceback is not
        return
    assert all(member.offset + member.size <= len(cut) for member in table.members.values())
