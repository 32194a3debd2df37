"""Blobs, records and ChainIDs: nothing gets a name before it was verified, damage is noticed."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from fairlead import config as settings
from fairlead import errors
from fairlead.image.manifest import Descriptor
from fairlead.store import blobs, layers, layout, records
from fairlead.store.layout import Stage

DATA = b"some bytes"
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()
LONG = "sha512:" + hashlib.sha512(DATA).hexdigest()


@pytest.fixture
def store(tmp_path):
    environ = {"FAIRLEAD_STORE": str(tmp_path / "s"), "HOME": "/nonexistent"}
    return layout.open_store(settings.load(environ, site_file="/nonexistent"))


@pytest.fixture
def stage(store):
    with Stage(store) as stage:
        yield stage


@pytest.mark.parametrize("digest", [DIGEST, LONG])
def test_document_is_found_again(store, stage, digest):
    assert blobs.read(store, digest) is None
    blobs.put(store, stage, digest, DATA)
    blobs.put(store, stage, digest, DATA)
    assert blobs.read(store, digest) == DATA


def test_document_that_rotted_is_removed_and_said(store, stage, capfd):
    blobs.put(store, stage, DIGEST, DATA)
    with open(blobs.path(store, DIGEST), "r+b") as file:
        file.write(b"S")
    assert blobs.read(store, DIGEST) is None
    assert "is damaged and will be fetched again" in capfd.readouterr().err
    assert not os.path.exists(blobs.path(store, DIGEST))


def written(store, stage, data, descriptor):
    writer = blobs.Writer(stage.name(), descriptor)
    try:
        writer.write(data[:3])
        writer.write(data[3:])
        writer.verify()
        writer.publish(store)
    finally:
        os.close(writer.fd)


def test_verified_blob_is_published(store, stage):
    written(store, stage, DATA, Descriptor("x", DIGEST, len(DATA)))
    fd = blobs.open_layer(store, Descriptor("x", DIGEST, len(DATA)))
    assert os.read(fd, 100) == DATA
    os.close(fd)


@pytest.mark.parametrize(
    ("data", "size", "why"),
    [
        (DATA[:-1], len(DATA), f"{DIGEST}: has 9 bytes instead of 10"),
        (DATA + b"x", len(DATA), f"{DIGEST}: has 11 bytes instead of 10"),
        (b"S" + DATA[1:], len(DATA), f"{DIGEST}: the registry sent other content, with the digest"),
    ],
)
def test_wrong_blob_gets_no_name(store, stage, data, size, why):
    with pytest.raises(errors.DigestError, match=why):
        written(store, stage, data, Descriptor("x", DIGEST, size))
    assert os.listdir(store.path("blobs", "sha256")) == []


def test_layer_that_a_dead_process_left_damaged_is_removed(store):
    with open(blobs.path(store, DIGEST), "wb") as file:
        file.write(b"x" * len(DATA))
    assert blobs.open_layer(store, Descriptor("x", DIGEST, len(DATA))) is None
    assert os.listdir(store.path("blobs", "sha256")) == []


def test_chain_id_follows_the_specification():
    a, b, c = (f"sha256:{letter * 64}" for letter in "abc")
    chain = "sha256:" + hashlib.sha256(f"{a} {b}".encode()).hexdigest()
    assert layers.chain_id((a,)) == a
    assert layers.chain_id((a, b)) == chain
    assert (
        layers.chain_id((a, b, c))
        == "sha256:" + hashlib.sha256(f"{chain} {c}".encode()).hexdigest()
    )
    assert layers.chain_id((b, a)) != layers.chain_id((a, b))
    assert layers.chain_id(()) == "sha256:" + hashlib.sha256(b"").hexdigest()


RECORD = records.Record("q.io/x:1", "t", "m", "c", "k", 7, "2026-01-01T00:00:00Z")


def test_record_is_found_and_replaced(store, stage):
    assert records.read(store, "q.io/x:1") is None
    records.write(store, stage, RECORD)
    records.write(store, stage, RECORD._replace(target="t2"))
    records.write(store, stage, RECORD._replace(reference="q.io/a:1"))
    assert records.read(store, "q.io/x:1").target == "t2"
    assert [record.reference for record in records.all_of(store)] == ["q.io/a:1", "q.io/x:1"]
    records.remove(store, RECORD)
    records.remove(store, RECORD)
    assert records.read(store, "q.io/x:1") is None


@pytest.mark.parametrize(
    "over",
    [{"size": "7"}, {"size": True}, {"target": 7}, {"target": None}, {"reference": "q.io/y:1"}],
)
def test_record_of_wrong_types_or_for_another_counts_as_absent(store, stage, over):
    records.write(store, stage, RECORD)
    path = store.path("images", os.listdir(store.path("images"))[0])
    with open(path, "w") as file:
        json.dump({**RECORD._asdict(), **over}, file)
    assert records.read(store, "q.io/x:1") is None


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 60000])
def test_broken_record_counts_as_absent(store, stage, text):
    records.write(store, stage, RECORD)
    path = store.path("images", os.listdir(store.path("images"))[0])
    with open(path, "wb") as file:
        file.write(text)
    assert records.read(store, "q.io/x:1") is None
    assert records.all_of(store) == ()
