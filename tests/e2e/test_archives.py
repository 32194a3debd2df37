"""Images in files: layouts, archives, podman's store; what comes out, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import resource
import subprocess
import time
from pathlib import Path

import pytest
from images import folder, image, index, layer, platform, program, symlink, tar
from local_images import archive, docker_archive, oci_archive, skopeo, write_layout
from ordinary import GID, UID

from fairlead import errors
from fairlead.image import reference
from fairlead.store import fetch

BASE = {
    "bin/": folder(),
    "bin/tool": program(b"#!/bin/sh\n"),
    "etc/": folder(),
    "etc/name": b"base\n",
}
UPPER = {"etc/name": b"upper\n", "bin/.wh.tool": b"", "link": symlink("etc/name")}


@pytest.fixture
def box():
    return image([layer(BASE), layer(UPPER)], {"Env": ["A=b"], "Cmd": ["/bin/tool"]})


@pytest.fixture
def plain():
    """The same with uncompressed layers, as docker save has them."""
    return image([layer(BASE, "none"), layer(UPPER, "none")])


def old(path: Path) -> Path:
    """Give a file times that are no longer of the present, so that its stamp proves something."""
    for item in [path, *(path.rglob("*") if path.is_dir() else ())]:
        os.utime(item, (1_700_000_000, 1_700_000_000))
    time.sleep(2.1)  # the time of its inode's change cannot be set
    return path


def check_tree(found):
    root = Path(found.rootfs)
    assert (root / "etc/name").read_text() == "upper\n"
    assert os.readlink(root / "link") == "etc/name"
    assert not (root / "bin/tool").exists()


def check(bench, found):
    check_tree(found)
    assert bench.leftovers() == []
    kept = {f"sha256:{path.name}" for path in (bench.root / "blobs/sha256").iterdir()}
    assert kept == {found.digest, found.config.digest}


# -- what comes out --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written", ["oci:{}/lay:1", "oci-archive:{}/x.tar:1", "docker-archive:{}/x.tar:box:1"]
)
def test_what_skopeo_writes_is_read(bench, tmp_path, box, written):
    write_layout(tmp_path / "from", {"1": box})
    text = written.format(tmp_path)
    skopeo(f"oci:{tmp_path}/from:1", text)
    check(bench, bench.pull(text))
    path = text.partition(":")[2].split(":")[0]
    assert bench.pull(path).config.env == (("A", "b"),)  # the path alone is enough


def test_podmans_store_is_read_without_podman(bench, tmp_path, box):
    write_layout(tmp_path / "from", {"1": box})
    conf = tmp_path / "storage.conf"
    conf.write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{tmp_path}/graph"\nrunroot = "{tmp_path}/run"\n'
    )
    bench.environ["CONTAINERS_STORAGE_CONF"] = str(conf)
    skopeo(
        f"oci:{tmp_path}/from:1",
        "containers-storage:localhost/box:1",
        environ={"CONTAINERS_STORAGE_CONF": str(conf)},
    )
    found = bench.pull("containers-storage:box:1")
    check(bench, found)
    assert found.config.digest == box.config_digest
    by_id = bench.pull(f"containers-storage:{box.config_digest[7:]}")
    assert by_id.digest == found.digest
    with pytest.raises(errors.ImageNotFoundError, match="podman's store has no such image"):
        bench.pull("containers-storage:other")
    name = next(tmp_path.glob("graph/overlay/*/diff/etc/name"))
    bench.run("rm", "--all")
    name.write_text("forged")
    with pytest.raises(errors.DigestError):
        bench.pull("containers-storage:box:1")
    name.unlink()
    refused(bench, "containers-storage:box:1", errors.ArchiveError, "etc/name: No such file")


def test_file_of_a_subordinate_uid_is_an_error_with_the_way_out(user, box):
    # As rootless podman leaves it: whoever owns the store may not read this file of the image.
    root = Path(user.place)
    write_layout(root / "from", {"1": box})
    conf = root / "storage.conf"
    conf.write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{root}/graph"\nrunroot = "{root}/run"\n'
    )
    user.environ["CONTAINERS_STORAGE_CONF"] = str(conf)
    skopeo(
        f"oci:{root}/from:1",
        "containers-storage:localhost/box:1",
        environ={"CONTAINERS_STORAGE_CONF": str(conf)},
    )
    subprocess.run(["chown", "-R", f"{UID}:{GID}", str(root)], check=True)
    assert user.run("pull", "-q", "containers-storage:box:1").returncode == 0
    user.run("rm", "--all")
    name = next(root.glob("graph/vfs/dir/*/etc/name"))
    os.chown(name, 165536, 165536)
    os.chmod(name, 0o600)
    result = user.run("pull", "-q", "containers-storage:box:1")
    assert result.returncode == 125
    assert "etc/name: Permission denied (copy the image with podman save" in result.stderr
    assert os.listdir(root / "store/trees") == []


def test_many_at_once_all_get_the_image(bench, tmp_path, box):
    path = oci_archive(tmp_path / "x.tar", box)
    started = [bench.start("pull", "-q", str(path)) for _ in range(8)]
    for process in started:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, f"{path}@{box.digest}\n"), err
    assert len(os.listdir(bench.root / "trees")) == 1
    assert bench.leftovers() == []


def test_index_in_a_layout_leads_to_this_machine(bench, tmp_path, box):
    other = image([], architecture="arm64", variant="v8")
    both = index((other, platform("arm64", "v8")), (box, platform("amd64")))
    write_layout(tmp_path / "lay", {"1": both})
    found = bench.pull(f"oci:{tmp_path}/lay:1")
    assert (found.target, found.digest) == (both.digest, box.digest)


def test_layers_of_a_docker_archive_may_be_links_or_compressed(bench, tmp_path, plain, box):
    lower, upper = layer(BASE, "none").data, layer(UPPER, "none").data
    layers = {"one/layer.tar": "../blobs/first.tar", "two.tar.gz": gzip.compress(upper)}
    path = docker_archive(tmp_path / "x.tar", plain, layers, more=[("blobs/first.tar", lower)])
    check(bench, bench.pull(f"docker-archive:{path}"))


def test_archive_of_both_kinds_is_one_image(bench, tmp_path, box):
    # As docker save writes since release 25: a layout with a manifest.json beside it.
    line = {
        "Config": f"blobs/sha256/{box.config_digest[7:]}",
        "RepoTags": ["box:1"],
        "Layers": [f"blobs/sha256/{digest[7:]}" for digest in box.layer_digests],
    }
    docker = archive(tmp_path / "y.tar", [("manifest.json", json.dumps([line]).encode())])
    both = oci_archive(tmp_path / "both.tar", box)
    subprocess.run(["tar", "--concatenate", f"--file={both}", str(docker)], check=True)
    assert bench.pull(str(both)).digest == box.digest
    check_tree(bench.pull(f"oci-archive:{both}:1"))
    found = bench.pull(f"docker-archive:{both}:box:1")
    check_tree(found)
    assert found.config.digest == box.config_digest


def test_nothing_is_copied_but_into_the_tree(bench, tmp_path, plain):
    layers = {"a.tar": layer(BASE, "none").data, "b.tar": layer(UPPER, "none").data}
    path = docker_archive(tmp_path / "x.tar", plain, layers)
    trace = tmp_path / "trace"
    command = [
        "strace",
        "-f",
        "-o",
        str(trace),
        "-e",
        "trace=openat",
        *bench.command("pull", str(path)),
    ]
    subprocess.run(command, env=bench.full(), check=True, capture_output=True)
    made = [
        line for line in trace.read_text().splitlines() if "O_CREAT" in line and "/blobs/" in line
    ]
    assert made == []


def test_digest_that_pull_prints_names_the_image_for_good(bench, tmp_path, box):
    write_layout(tmp_path / "lay", {"1": box})
    printed = bench.run("pull", "-q", f"oci:{tmp_path}/lay:1").stdout.strip()
    assert printed == f"oci:{tmp_path}/lay@{box.digest}"
    bench.run("rm", "--all")
    assert bench.pull(printed).digest == box.digest


# -- change ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["missing", "newer", "always"])
def test_changed_layout_is_noticed_at_once(bench, tmp_path, policy):
    first, second = (image([layer({"v": text})]) for text in (b"1", b"2"))
    write_layout(tmp_path / "lay", {"1": first})
    name = f"oci:{tmp_path}/lay:1"
    bench.pull(name)
    write_layout(tmp_path / "lay", {"1": second})
    assert bench.pull(name, "never").digest == first.digest
    assert bench.pull(name, policy).digest == second.digest
    assert bench.pull(f"oci:{tmp_path}/lay@{first.digest}", "never").digest == first.digest


def test_unchanged_archive_is_not_opened_again(bench, tmp_path, box):
    path = old(oci_archive(tmp_path / "x.tar", box))
    first = bench.pull(str(path))
    trace = tmp_path / "trace"
    command = [
        "strace",
        "-f",
        "-o",
        str(trace),
        "-e",
        "trace=%file",
        *bench.command("pull", str(path)),
    ]
    subprocess.run(command, env=bench.full(), check=True, capture_output=True)
    opened = [
        line for line in trace.read_text().splitlines() if "open" in line and str(path) in line
    ]
    assert opened == []
    assert bench.pull(str(path)) == first


def test_file_that_is_gone_is_a_note_while_the_store_has_it(bench, tmp_path, box):
    path = oci_archive(tmp_path / "x.tar", box)
    bench.pull(str(path))
    path.unlink()
    assert bench.pull(str(path), "missing").digest == box.digest
    assert bench.line("pull", str(path)) == (
        f"fairlead: error [image-not-found]: {path}: No such file or directory "
        "(check the path; a job needs it on every one of its nodes)"
    )


def test_verbs_know_local_images(bench, tmp_path, box):
    path = oci_archive(tmp_path / "x.tar", box)
    name = f"oci-archive:{path}:1"
    before = json.loads(bench.run("inspect", name).stdout)
    bench.run("pull", "-q", name)
    after = json.loads(bench.run("inspect", name).stdout)
    assert {**after, "store": None} == before
    assert [entry["reference"] for entry in json.loads(bench.run("images", "--json").stdout)] == [
        name
    ]
    assert bench.run("rm", name).stdout == f"{name}\n"
    assert os.listdir(bench.root / "trees") == []


# -- what is refused -------------------------------------------------------------------------------


def refused(bench, text, error, why):
    with pytest.raises(error) as caught:
        bench.pull(text)
    assert why in caught.value.line(), caught.value.line()
    assert "\n" not in caught.value.line()
    assert fetch.images(bench.store) == ()
    assert os.listdir(bench.root / "trees") == []
    assert bench.leftovers() == []


def test_tags_in_an_archive_bind_only_the_name_that_was_asked_for(bench, tmp_path, plain):
    # containerd CVE-2026-50195
    layers = {"a.tar": layer(BASE, "none").data, "b.tar": layer(UPPER, "none").data}
    path = docker_archive(tmp_path / "x.tar", plain, layers, ("docker.io/library/debian:12",))
    bench.pull(f"docker-archive:{path}")
    names = [found.reference for found in fetch.images(bench.store)]
    assert names == [f"docker-archive:{path}"]
    assert fetch.local(bench.store, reference.parse("debian:12")) is None


def test_layer_that_is_not_its_diff_id_is_refused(bench, tmp_path, plain):
    layers = {"a.tar": layer(BASE, "none").data, "b.tar": tar({"etc/name": b"other"})}
    path = docker_archive(tmp_path / "x.tar", plain, layers)
    refused(bench, str(path), errors.DigestError, "other content")


def test_blob_that_was_altered_is_refused(bench, tmp_path, box):
    write_layout(tmp_path / "lay", {"1": box})
    blob = tmp_path / "lay/blobs/sha256" / box.layer_digests[1][7:]
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    refused(bench, f"oci:{tmp_path}/lay", errors.DigestError, "the file holds other content")
    blob.write_bytes(data[:-1])
    refused(bench, f"oci:{tmp_path}/lay", errors.DigestError, "bytes but has")
    blob.unlink()
    refused(bench, f"oci:{tmp_path}/lay", errors.ArchiveError, "is not in it")
    os.mkfifo(blob)
    refused(bench, f"oci:{tmp_path}/lay", errors.Error, "sha256:")


@pytest.mark.parametrize(
    "digest", ["sha256:../../x", "sha256:" + "A" * 64, "sha256:abc", "md5:0", ""]
)
def test_digest_that_is_none_never_becomes_a_path(bench, tmp_path, box, digest):
    # containers/image CVE-2024-3727
    table = {
        "schemaVersion": 2,
        "manifests": [{"mediaType": box.media_type, "digest": digest, "size": 1}],
    }
    path = oci_archive(tmp_path / "x.tar", box, index=json.dumps(table).encode())
    refused(bench, str(path), errors.ManifestError, "holds a wrong digest")


def test_document_of_two_natures_is_refused(bench, tmp_path, box):
    # CVE-2021-41190
    both = json.dumps({"schemaVersion": 2, "manifests": [], "layers": []}).encode()
    path = oci_archive(tmp_path / "x.tar", box, index=both)
    refused(bench, str(path), errors.ManifestError, "holds both layers and manifests")


def test_index_that_calls_a_manifest_something_else_is_refused(bench, tmp_path, box):
    lying = box._replace(media_type="application/vnd.oci.image.index.v1+json")
    refused(
        bench, str(oci_archive(tmp_path / "x.tar", lying)), errors.ManifestError, "was served as"
    )


def test_document_that_stands_twice_is_refused(bench, tmp_path, box):
    path = oci_archive(tmp_path / "x.tar", box)
    with path.open("rb") as file:
        first = file.read()
    extra = archive(tmp_path / "y.tar", [("./index.json", b"{}")]).read_bytes()
    path.write_bytes(extra[:1024] + first)
    refused(bench, str(path), errors.ArchiveError, "index.json stands twice")


@pytest.mark.parametrize("name", ["index.json", "manifest.json"])
def test_huge_document_is_refused_before_it_is_read(bench, tmp_path, name):
    # containerd CVE-2023-25153; sparse, so that the test costs nothing
    path = tmp_path / "x.tar"
    small = archive(path, [(name, b"")]).read_bytes()
    size = 10 << 30
    head = bytearray(small[:512])
    head[124:136] = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    mark = archive(tmp_path / "m.tar", [("oci-layout", b"{}")]).read_bytes()[:1024]
    path.write_bytes((mark if name == "index.json" else b"") + head)
    with path.open("r+b") as file:
        file.truncate(len(mark) + 1024 + size)
    refused(bench, str(path), errors.ArchiveError, "has 10737418240 bytes, more than 4194304")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 300 << 10


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("../../../../etc/passwd", "is a link out of the archive"),
        ("/etc/passwd", "is a link out of the archive"),
        ("a.tar", "leads in circles"),
        ("absent", "is not in it"),
    ],
)
def test_link_never_leads_out_of_the_archive(bench, tmp_path, target, why):
    one = image([layer(BASE, "none")])
    path = docker_archive(tmp_path / "x.tar", one, {"a.tar": target})
    refused(bench, str(path), errors.ArchiveError, why)


@pytest.mark.parametrize("program_name", ["gzip", "zstd", "xz"])
def test_archive_that_is_compressed_as_a_whole_is_refused_with_the_way_out(
    bench, tmp_path, box, program_name
):
    path = oci_archive(tmp_path / "x.tar", box)
    packed = subprocess.run([program_name, "-c", str(path)], capture_output=True, check=True).stdout
    path.write_bytes(packed)
    refused(
        bench,
        f"oci-archive:{path}",
        errors.ArchiveError,
        f"decompress the file with {program_name} -d",
    )
    refused(bench, str(path), errors.ArchiveError, f"decompress the file with {program_name} -d")


def test_archive_cut_short_anywhere_is_one_clear_line(bench, tmp_path, box):
    path = oci_archive(tmp_path / "x.tar", box)
    data = path.read_bytes()
    for size in range(1, len(data) - 10_240, 1777):
        path.write_bytes(data[:size])
        with pytest.raises(errors.Error) as caught:
            bench.pull(f"oci-archive:{path}")
        assert "\n" not in caught.value.line()
        assert caught.value.code in {"archive", "digest", "manifest"}, caught.value.line()
    assert fetch.images(bench.store) == ()


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (b"{}", "holds 0 images"),
        (b"[]", "holds 0 images"),
        (b"[1]", "is not what docker save writes"),
        (b'[{"Config": 1, "Layers": []}]', "is not what docker save writes"),
        (b'[{"Config": "x", "Layers": [], "RepoTags": [[]]}]', "is not what docker save writes"),
        (b'[{"Config": "../../../etc/passwd", "Layers": []}]', "is not in it"),
        (b"[" * 100_000, "is not what docker save writes"),
    ],
)
def test_damaged_manifest_json_is_one_line(bench, tmp_path, lines, why):
    path = archive(tmp_path / "x.tar", [("manifest.json", lines)])
    refused(bench, f"docker-archive:{path}", errors.Error, why)


def test_several_images_must_be_told_apart(bench, tmp_path, box, plain):
    write_layout(tmp_path / "lay", {"1": box, "2": plain})
    name = f"oci:{tmp_path}/lay"
    refused(bench, name, errors.ImageNotFoundError, "holds several images (it holds: 1, 2)")
    refused(
        bench, f"{name}:3", errors.ImageNotFoundError, "holds no image named 3 (it holds: 1, 2)"
    )
    assert bench.pull(f"{name}:2").digest == plain.digest


def test_image_of_a_docker_archive_may_be_named_by_number(bench, tmp_path, plain):
    layers = {"a.tar": layer(BASE, "none").data, "b.tar": layer(UPPER, "none").data}
    path = docker_archive(tmp_path / "x.tar", plain, layers, ())
    refused(bench, f"docker-archive:{path}:@1", errors.ImageNotFoundError, "numbered from 0")
    check(bench, bench.pull(f"docker-archive:{path}:@0"))


def test_digest_of_another_image_is_refused(bench, tmp_path, plain):
    layers = {"a.tar": layer(BASE, "none").data, "b.tar": layer(UPPER, "none").data}
    path = docker_archive(tmp_path / "x.tar", plain, layers)
    other = "sha256:" + hashlib.sha256(b"other").hexdigest()
    refused(bench, f"docker-archive:{path}@{other}", errors.ImageNotFoundError, f"not {other}")


def test_what_holds_no_image_is_one_clear_line(bench, tmp_path):
    path = tmp_path / "x"
    path.mkdir()
    refused(bench, str(path), errors.ArchiveError, "is neither a root file system")
    refused(bench, f"oci:{path}", errors.ImageNotFoundError, "index.json: No such file")
    os.mkfifo(tmp_path / "fifo")
    refused(bench, str(tmp_path / "fifo"), errors.ArchiveError, "is no regular file")
    (tmp_path / "text").write_text("hello")
    refused(
        bench, str(tmp_path / "text"), errors.ArchiveError, "is neither a squashfs nor a SIF file"
    )
    refused(bench, f"oci-archive:{tmp_path}/text", errors.ArchiveError, "no tar archive")
    archive(tmp_path / "x.tar", [("readme", b"")])
    refused(bench, str(tmp_path / "x.tar"), errors.ArchiveError, "it has no manifest.json")
    refused(bench, f"oci-archive:{tmp_path}/x.tar", errors.ArchiveError, "it has no index.json")
