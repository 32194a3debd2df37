"""Podman's store: where it is, what is read of it, and that nothing in it leads out."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import tarfile

import pytest

from fairlead import errors
from fairlead.image import graphroot, reference, storage
from fairlead.image.manifest import Descriptor

IMAGE = "1" * 64
LAYER = "2" * 64


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def split(archive, name, content):
    """A tar-split of an archive with one file."""
    at = archive.index(content)
    segment = {"type": 2, "payload": base64.b64encode(archive[:at]).decode(), "position": 0}
    file = {"type": 1, "name": name, "size": len(content), "payload": "", "position": 1}
    rest = {"type": 2, "payload": base64.b64encode(archive[at + len(content) :]).decode()}
    return [segment, file, rest]


class Store:
    """A store with one image of one layer, made by hand; its parts can be altered before use."""

    def __init__(self, root):
        self.root, content = root, b"the content of a file\n"
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            info = tarfile.TarInfo("d/file")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        self.archive = out.getvalue()
        self.diff_id = digest_of(self.archive)
        self.config = json.dumps(
            {
                "os": "linux",
                "architecture": "amd64",
                "rootfs": {"type": "layers", "diff_ids": [self.diff_id]},
            }
        ).encode()
        self.image = {"id": IMAGE, "names": ["docker.io/library/box:1"], "layer": LAYER}
        self.layer = {"id": LAYER, "diff-digest": self.diff_id, "diff-size": len(self.archive)}
        self.split = split(self.archive, "d/file", content)
        self.more = []
        (root / f"overlay/{LAYER}/diff/d").mkdir(parents=True)
        (root / f"overlay/{LAYER}/diff/d/file").write_bytes(content)
        (root / f"overlay-images/{IMAGE}").mkdir(parents=True)
        (root / "overlay-layers").mkdir()

    def write(self):
        config = {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest_of(self.config),
            "size": len(self.config),
        }
        layer = {
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": digest_of(b"compressed"),
            "size": 10,
        }
        table = {"schemaVersion": 2, "config": config, "layers": [layer]}
        folder = self.root / f"overlay-images/{IMAGE}"
        (folder / "manifest").write_text(json.dumps(table))
        key = base64.b64encode(digest_of(self.config).encode()).decode()
        (folder / f"={key}").write_bytes(self.config)
        (self.root / "overlay-images/images.json").write_text(json.dumps([self.image, *self.more]))
        (self.root / "overlay-layers/layers.json").write_text(json.dumps([self.layer]))
        lines = "".join(json.dumps(line) + "\n" for line in self.split)
        path = self.root / f"overlay-layers/{LAYER}.tar-split.gz"
        path.write_bytes(gzip.compress(lines.encode()))
        return self

    def open(self, conf=None):
        if conf is None:
            conf = self.root / "storage.conf"
            conf.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{self.root}"\n')
        return storage.Storage({"CONTAINERS_STORAGE_CONF": str(conf)})

    def manifest(self, name):
        with self.open() as source:
            return source.manifest(reference.parse(f"containers-storage:{name}"), "")

    def read(self, name="box:1", conf=None):
        """Return the layer's archive as the source gives it."""
        ref = reference.parse(f"containers-storage:{name}")
        with self.open(conf) as source:
            document = json.loads(source.manifest(ref, "").data)
            layers = [Descriptor("", x["digest"], x["size"]) for x in document["layers"]]
            return [b"".join(source.blob(ref, layer)) for layer in layers]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.mark.parametrize("name", ["box:1", "docker.io/library/box:1", IMAGE, f"@{IMAGE}"])
def test_archive_of_a_layer_is_written_again_byte_for_byte(store, name):
    assert store.write().read(name) == [store.archive]


def test_name_that_podman_gives_to_a_local_build_is_found(store):
    store.image["names"] = ["localhost/mine:latest"]
    assert store.write().read("mine") == [store.archive]


def refused(store, why, name="box:1"):
    with pytest.raises(errors.Error) as caught:
        store.write().read(name)
    assert why in caught.value.line(), caught.value.line()
    assert caught.value.code in {"archive", "manifest", "image-not-found", "digest"}


@pytest.mark.parametrize("name", ["../../../../../../etc/passwd", "/etc/passwd", "d/link", "fifo"])
def test_name_in_a_tar_split_never_leads_out(store, name):
    diff = store.root / f"overlay/{LAYER}/diff"
    os.symlink("/etc/passwd", diff / "d/link")
    os.mkfifo(diff / "fifo")
    store.split[1] |= {"name": name, "size": 10}
    refused(store, f"diff/{name}: ")


def test_name_of_any_bytes_is_understood(store):
    raw, diff = b"d/\xff\n", os.fsencode(store.root / f"overlay/{LAYER}/diff")
    os.rename(diff + b"/d/file", diff + b"/" + raw)
    store.split[1] |= {"name": "", "name_raw": base64.b64encode(raw).decode()}
    assert store.write().read() == [store.archive]


@pytest.mark.parametrize("line", [[], {"type": 2, "payload": "%"}, {"type": 1, "size": 3}, 7])
def test_damaged_tar_split_is_one_error(store, line):
    store.split.insert(0, line)
    refused(store, "damaged")


def test_identifier_never_becomes_a_path(store):
    store.image["id"] = "../../etc"
    refused(store, "wrong id")
    store.image["id"], store.image["layer"] = IMAGE, "../x"
    refused(store, "wrong layer")


def test_layers_that_are_not_the_configurations_are_refused(store):
    store.layer["diff-digest"] = digest_of(b"other")
    refused(store, "are not its diff_ids")


def test_layers_that_name_each_other_are_refused(store):
    store.layer["parent"] = LAYER
    refused(store, "has more layers in")


def test_configuration_that_was_altered_is_refused(store):
    store.write()
    path = next((store.root / f"overlay-images/{IMAGE}").glob("=*"))
    path.write_bytes(b" " + path.read_bytes()[1:])
    with pytest.raises(errors.DigestError):
        store.read()


def test_image_that_is_not_there_is_told(store):
    refused(store, "no such image (it has docker.io/library/box:1; see podman images)", "bix:1")
    refused(store, "no such image (it has docker.io/library/box:1; see podman images)", "other")
    store.image["names"] = []
    refused(store, "no such image (it is empty)", "other")
    store.image |= {"names": ["docker.io/library/box:1"], "digest": digest_of(b"registry's")}
    refused(
        store,
        f"that digest is the registry's; name it containers-storage:{IMAGE}",
        f"other@{store.image['digest']}",
    )


def test_digest_that_pull_prints_is_found_under_any_tag(store):
    store.image["names"] = [
        "127.0.0.1:5000/team/box:1.2",
        "127.0.0.1:5000/team/box@sha256:" + IMAGE,
    ]
    digest = store.write().manifest("127.0.0.1:5000/team/box:1.2").digest
    assert store.read(f"127.0.0.1:5000/team/box@{digest}") == [store.archive]


def test_two_images_that_a_short_name_may_mean_are_told_apart(store):
    store.more = [{"id": "3" * 64, "names": ["localhost/box:1"], "layer": LAYER}]
    refused(store, "2 images of that name, one built here (name the one that is meant")
    assert store.read("@" + IMAGE) == [store.archive]


def test_layer_that_podman_is_writing_is_refused(store):
    store.layer["flags"] = {"incomplete": True}
    refused(store, "is incomplete (podman is writing it, or was interrupted")


def test_layer_that_was_pulled_in_part_is_verified_all_the_same(store):
    # It has no digest and no size: zstd:chunked, without the table that tells of both.
    store.layer = {"id": LAYER, "diff-size": -1, "toc-digest": digest_of(b"toc")}
    assert store.write().read() == [store.archive]
    sizes = [layer["size"] for layer in json.loads(store.manifest("box:1").data)["layers"]]
    assert sizes == [len(store.archive)]


def test_additional_store_is_read_and_the_own_one_may_be_missing(store):
    store.write()
    conf = store.root / "own.conf"
    conf.write_text(
        f"""[storage]
driver = "overlay"
graphroot = "{store.root}/none"
[storage.options]
additionalimagestores = ["{store.root}"]
"""
    )
    assert store.read(conf=conf) == [store.archive]
    place = graphroot.find({"CONTAINERS_STORAGE_CONF": str(conf)})
    assert place.images()[0] == f"{store.root}/overlay-images/images.json"


def table_of(environ):
    return graphroot.find(environ).images()[0]


def test_store_is_looked_for_where_podman_looks(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    system = tmp_path / "system.conf"
    monkeypatch.setattr(graphroot, "_SYSTEM", (str(system), str(tmp_path / "none")))
    environ = {"HOME": str(tmp_path)}
    default = f"{tmp_path}/.local/share/containers/storage/overlay-images/images.json"
    assert table_of(environ) == default
    # The system's settings give a user only these two.
    system.write_text(
        """[storage]
driver = "vfs"
graphroot = "/root/only"
rootless_storage_path = "/local/$USER/$UID"
"""
    )
    assert table_of(environ | {"USER": "me"}) == "/local/me/1000/vfs-images/images.json"
    own = tmp_path / ".config/containers/storage.conf"
    own.parent.mkdir(parents=True)
    own.write_text('[storage]\ndriver = "overlay2"\n')
    assert table_of(environ) == "/local/$USER/1000/overlay-images/images.json"
    own.write_text('[storage]\ndriver = "vfs"\ngraphroot = "$HOME/graph"\n')
    assert table_of(environ) == f"{tmp_path}/graph/vfs-images/images.json"
    driver = {"STORAGE_DRIVER": "overlay"}
    assert table_of(environ | driver) == f"{tmp_path}/graph/overlay-images/images.json"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert table_of(environ) == "/root/only/vfs-images/images.json"


def test_settings_of_podman_that_cannot_be_used_are_one_error(tmp_path):
    other = tmp_path / "other.conf"
    environ = {"CONTAINERS_STORAGE_CONF": str(other)}
    with pytest.raises(errors.ConfigError, match="is not there, but CONTAINERS_STORAGE_CONF"):
        graphroot.find(environ)
    other.write_text('[storage]\ndriver = "btrfs"\n')
    with pytest.raises(errors.ArchiveError, match="its driver is btrfs, only overlay and vfs"):
        graphroot.find(environ)
    other.write_text("[storage")
    with pytest.raises(errors.ConfigError, match=r"other\.conf"):
        graphroot.find(environ)
