"""Pulling from a real registry: what a user types, what comes out, and the exact line when it fails."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from images import (
    Entry,
    encoded,
    folder,
    image,
    index,
    layer,
    platform,
    program,
    push,
    symlink,
)

from fairlead import errors
from fairlead.image import reference
from fairlead.store import fetch

BASE = {
    "bin/": folder(),
    "bin/tool": program(b"#!/bin/sh\n"),
    "etc/": folder(),
    "etc/name": b"base\n",
}


@pytest.fixture
def repository():
    """A repository of the test's own, as the registry is shared."""
    return f"demo/{uuid.uuid4().hex[:12]}"


@pytest.fixture
def name(registry, repository):
    return f"{registry}/{repository}"


def noise(size):
    return os.urandom(size)


# -- what comes out --------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_layers_are_applied_in_order(bench, registry, repository, name, compression):
    layers = [
        layer(BASE, compression),
        layer(
            {"etc/name": b"upper\n", "etc/.wh.gone": b"", "link": symlink("etc/name")}, compression
        ),
    ]
    push(registry, repository, "1", image(layers))
    found = bench.pull(f"{name}:1")
    root = Path(found.rootfs)
    assert (root / "etc/name").read_bytes() == b"upper\n"
    assert os.readlink(root / "link") == "etc/name"
    assert (root / "bin/tool").stat().st_mode & 0o777 == 0o755
    assert bench.leftovers() == []


def test_docker_types_are_understood(bench, registry, repository, name):
    pushed = image([layer(BASE)], docker=True)
    push(registry, repository, "1", index((pushed, platform("amd64")), docker=True))
    found = bench.pull(f"{name}:1")
    assert found.digest == pushed.digest
    assert (Path(found.rootfs) / "etc/name").exists()


def test_zero_layers_give_an_empty_tree(bench, registry, repository, name):
    push(registry, repository, "1", image([]))
    assert os.listdir(bench.pull(f"{name}:1").rootfs) == []


def test_same_layer_twice_is_fetched_once_and_applied_twice(bench, registry, repository, name):
    empty = layer({"a": b"1"})
    push(registry, repository, "1", image([empty, layer({".wh.a": b""}), empty]))
    assert (Path(bench.pull(f"{name}:1").rootfs) / "a").read_bytes() == b"1"


def test_same_digest_under_two_types_far_apart_is_one_blob(bench, faulty):
    layers = [layer({"first": b"1"}), *(layer({str(n): b"x"}) for n in range(30))]
    docker = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    layers.append(layers[0]._replace(media_type=docker))
    found = bench.pull(faulty.add("x/y", "1", image(layers)))
    assert len(os.listdir(found.rootfs)) == 31


def test_image_tells_what_it_wants_to_run(bench, registry, repository, name):
    wants = {
        "Env": ["PATH=/bin", "A=b"],
        "Entrypoint": ["/bin/tool"],
        "Cmd": ["-x"],
        "WorkingDir": "/etc",
        "User": "1000:1000",
        "Labels": {"org.example": "yes"},
    }
    digest = push(registry, repository, "1", image([layer(BASE)], wants))
    found = bench.pull(f"{name}:1")
    assert found.reference == f"{name}:1"
    assert (found.digest, found.target) == (digest, digest)
    assert found.config.env == (("PATH", "/bin"), ("A", "b"))
    assert (found.config.entrypoint, found.config.cmd) == (("/bin/tool",), ("-x",))
    assert (found.config.workdir, found.config.user) == ("/etc", "1000:1000")
    assert found.config.labels == (("org.example", "yes"),)
    assert found.size == len(b"#!/bin/sh\n") + len(b"base\n")


def test_nested_index_leads_to_this_machine(bench, registry, repository, name):
    mine = image([layer(BASE)])
    other = image([], architecture="arm64", variant="v8")
    inner = index((other, platform("arm64", "v8")), (mine, platform("amd64")))
    push(registry, repository, "1", index((other, platform("arm64", "v8")), (inner, None)))
    assert bench.pull(f"{name}:1").digest == mine.digest


def test_sha512_descriptors_are_verified(bench, faulty):
    built = image([layer(BASE)])
    table = json.loads(built.manifest)
    data = built.blobs[table["layers"][0]["digest"]]
    digest = "sha512:" + hashlib.sha512(data).hexdigest()
    table["layers"][0]["digest"] = digest
    changed = built._replace(manifest=encoded(table), blobs={**built.blobs, digest: data})
    assert (Path(bench.pull(faulty.add("x/y", "1", changed)).rootfs) / "etc/name").exists()
    assert not (bench.root / "blobs/sha512" / digest[7:]).exists()


def test_store_keeps_documents_and_drops_compressed_layers(bench, registry, repository, name):
    built = image([layer(BASE)])
    push(registry, repository, "1", built)
    bench.pull(f"{name}:1")
    kept = {f"sha256:{path.name}" for path in (bench.root / "blobs/sha256").iterdir()}
    assert kept == {built.digest, built.config_digest}


def test_two_images_with_the_same_stack_share_a_tree(bench, registry, repository, name):
    layers = [layer({"data": noise(1000)})]
    push(registry, repository, "1", image(layers, {"Cmd": ["a"]}))
    push(registry, repository, "2", image(layers, {"Cmd": ["b"]}))
    assert bench.pull(f"{name}:1").rootfs == bench.pull(f"{name}:2").rootfs
    assert fetch.remove(bench.store, reference.parse(f"{name}:1")) == (f"{name}:1",)
    assert os.path.isdir(bench.pull(f"{name}:2", "never").rootfs)


def test_no_thread_is_left(bench, registry, repository, name):
    push(registry, repository, "1", image([layer({str(n): noise(100)}) for n in range(8)]))
    code = (  # in a process of its own: the faulty registry's threads may still be ending in this one
        "import os, sys; from fairlead import config; from fairlead.image import reference\n"
        "from fairlead.store import fetch, layout; settings = config.load()\n"
        "fetch.pull(reference.parse(sys.argv[1]), settings, layout.open_store(settings), policy='always')\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    command = [sys.executable, "-c", code, f"{name}:1"]
    result = subprocess.run(command, env=bench.full(), capture_output=True, text=True, check=True)
    assert result.stdout == "1\n"


# -- policies --------------------------------------------------------------------------------------


def test_tag_that_moved_is_followed_by_always_and_newer_only(bench, registry, repository, name):
    first = push(registry, repository, "1", image([layer({"v": b"1"})]))
    bench.pull(f"{name}:1")
    second = push(registry, repository, "1", image([layer({"v": b"2"})]))
    assert bench.pull(f"{name}:1", "never").digest == first
    assert bench.pull(f"{name}:1", "missing").digest == first
    assert bench.pull(f"{name}:1", "newer").digest == second
    assert bench.pull(f"{name}:1", "never").digest == second
    # What the tag meant before is still there by its digest: a job may be running it.
    assert bench.pull(f"{name}@{first}", "never").digest == first
    assert [image.reference for image in fetch.images(bench.store)] == [
        f"{name}:1",
        f"{name}@{first}",
    ]


def test_digest_in_the_store_needs_no_network(bench, faulty):
    built = image([layer(BASE)])
    outer = index((built, platform("amd64")))
    name = faulty.add("x/y", "1", outer)
    bench.pull(name)
    before = len(faulty.requests)
    bare = name.rpartition(":")[0]
    for digest in (outer.digest, built.digest):
        assert bench.pull(f"{bare}@{digest}", "always").digest == built.digest
        assert bench.pull(f"{name}@{digest}", "newer").digest == built.digest
    assert len(faulty.requests) == before


def test_registry_cannot_answer_a_digest_with_another(bench, faulty):
    wanted, other = image([layer(BASE)]), image([layer({"other": b""})])
    faulty.add("x/y", "1", other)
    faulty.add("x/y", wanted.digest, other)
    with pytest.raises(errors.DigestError, match=f"the registry answers with {other.digest}"):
        bench.pull(f"{faulty.host}/x/y@{wanted.digest}")


def test_registry_is_asked_about_a_digest_that_is_known_from_another_repository(bench, faulty):
    built = image([layer(BASE)])
    faulty.add("x/y", "1", built)
    bench.pull(f"{faulty.host}/x/y:1")
    with pytest.raises(errors.ImageNotFoundError):
        bench.pull(f"{faulty.host}/x/other@{built.digest}")


def test_same_digest_is_not_fetched_again(bench, faulty):
    name = faulty.add("x/y", "1", image([layer(BASE)]))
    bench.pull(name)
    bench.pull(name)
    assert faulty.count("GET", "/blobs/") == 2
    assert faulty.count("GET", "/manifests/") == 1
    assert faulty.count("HEAD", "/manifests/") == 2


def test_newer_goes_on_with_a_note_when_the_registry_is_down(bench, faulty, capfd, quick):
    name = faulty.add("x/y", "1", image([layer(BASE)]))
    digest = bench.pull(name).digest
    faulty.fault("", lambda answer: answer._replace(status=503, body=b""))
    assert bench.pull(name, "newer").digest == digest
    line = capfd.readouterr().err
    assert re.fullmatch(
        rf"fairlead: {name}: the registry answered 503 Service Unavailable; "
        r"using the image in the store, pulled \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\n",
        line,
    )
    with pytest.raises(errors.RegistryUnreachableError):
        bench.pull(name, "always")


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, errors.ImageNotFoundError), (403, errors.AuthError), (401, errors.AuthError)],
)
def test_newer_does_not_hide_a_refusal(bench, faulty, status, error):
    name = faulty.add("x/y", "1", image([layer(BASE)]))
    bench.pull(name)
    faulty.fault("/manifests/", lambda answer: answer._replace(status=status, body=b"", headers={}))
    with pytest.raises(error):
        bench.pull(name, "newer")


def test_registry_that_tells_no_digest_by_head_is_asked_by_get(bench, faulty):
    faulty.told_digest = False
    name = faulty.add("x/y", "1", image([layer(BASE)]))
    first = bench.pull(name)
    assert bench.pull(name).digest == first.digest
    assert faulty.count("GET", "/blobs/") == 2


def test_never_does_not_ask(bench, faulty):
    with pytest.raises(
        errors.ImageNotFoundError, match=r"is not in the store .* and pull is never"
    ):
        bench.pull(f"{faulty.host}/x/y:1", "never")
    assert faulty.requests == []


# -- the exact lines -------------------------------------------------------------------------------


def test_line_for_a_malformed_reference(bench):
    assert bench.line("pull", "Demo/x") == (
        "fairlead: error [reference]: Demo/x: the name's component 'Demo' must be lower case "
        "(write it as [REGISTRY/]NAME[:TAG][@sha256:...] or as a path)"
    )


def test_line_for_a_tag_that_does_not_exist(bench, registry, repository, name):
    push(registry, repository, "1", image([]))
    assert bench.line("pull", f"{name}:2") == (
        f"fairlead: error [image-not-found]: {name}:2: the registry has no such image or tag: "
        "manifest unknown (check the name and the tag)"
    )


def test_line_for_an_image_that_does_not_exist(bench, faulty):
    assert bench.line("pull", f"{faulty.host}/no/such:1") == (
        f"fairlead: error [image-not-found]: {faulty.host}/no/such:1: the registry has no such image "
        "or tag: repository name not known to registry (check the name and the tag)"
    )


def test_line_for_a_registry_that_refuses_connections(bench):
    found = bench.line("pull", "127.0.0.1:1/x/y:1")
    assert found == (
        "fairlead: error [registry-unreachable]: 127.0.0.1:1/x/y:1: Connection refused "
        "(check the registry's name and this node's network and proxy settings)"
    )


def test_line_for_a_host_that_does_not_exist(bench, quick):
    with pytest.raises(errors.RegistryUnreachableError) as caught:
        bench.pull("no-such-host.invalid/x:1")
    assert re.fullmatch(
        "no-such-host.invalid/x:1: (no-such-host.invalid: )?(Name or service not known|"
        "Temporary failure in name resolution|No address associated with hostname)",
        caught.value.message,
    )


def test_line_for_a_wrong_platform(bench, registry, repository, name):
    arm = image([], architecture="arm64", variant="v8")
    other = image([], architecture="s390x")
    push(
        registry, repository, "1", index((arm, platform("arm64", "v8")), (other, platform("s390x")))
    )
    assert bench.line("pull", f"{name}:1") == (
        f"fairlead: error [platform]: {name}:1: no image for linux/amd64; "
        "there is: linux/arm64/v8, linux/s390x "
        "(build the image for this machine, or use one of the platforms listed)"
    )


def test_line_for_a_single_image_of_another_platform(bench, registry, repository, name):
    push(registry, repository, "1", image([], architecture="s390x"))
    found = bench.line("pull", f"{name}:1")
    assert f"{name}:1: no image for linux/amd64; there is: linux/s390x" in found


def test_line_for_a_login_that_is_missing(bench, private_registry):
    assert bench.line("pull", f"{private_registry}/x/y:1") == (
        f"fairlead: error [auth]: {private_registry}/x/y:1: the registry wants a login: "
        "authentication required "
        "(log in with fairlead, podman or docker login, or set REGISTRY_AUTH_FILE)"
    )


def logged_in(bench, registry, user, password):
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    path = bench.home / "auth.json"
    path.write_text(json.dumps({"auths": {registry: {"auth": auth}}}))
    bench.environ["REGISTRY_AUTH_FILE"] = str(path)
    return path


def test_line_for_a_login_that_is_wrong(bench, private_registry):
    path = logged_in(bench, private_registry, "alice", "wrong")
    found = bench.line("pull", f"{private_registry}/x/y:1")
    assert f"{private_registry}/x/y:1: the registry refused the login of {path}: " in found
    assert "wrong" not in found


def test_login_from_a_file_opens_a_private_registry(bench, private_registry, repository):
    login = "Basic " + base64.b64encode(b"alice:open sesame").decode()
    push(private_registry, repository, "1", image([layer(BASE)]), login=login)
    logged_in(bench, private_registry, "alice", "open sesame")
    assert (Path(bench.pull(f"{private_registry}/{repository}:1").rootfs) / "etc/name").exists()


def test_login_of_enroot_opens_a_private_registry(bench, private_registry, repository):
    login = "Basic " + base64.b64encode(b"alice:open sesame").decode()
    push(private_registry, repository, "1", image([layer(BASE)]), login=login)
    host = private_registry.rpartition(":")[0]
    (bench.home / ".credentials").write_text(f'machine {host} login alice password "open sesame"\n')
    bench.environ["ENROOT_CONFIG_PATH"] = str(bench.home)
    assert (Path(bench.pull(f"{private_registry}/{repository}:1").rootfs) / "etc/name").exists()
    line = bench.line("pull", f"eve@{private_registry}#{repository}:1")
    assert "the registry wants a login" in line


def test_line_for_an_artifact(bench, faulty):
    config = {
        "mediaType": "application/vnd.cncf.helm.config.v1+json",
        "digest": "sha256:" + "0" * 64,
        "size": 2,
    }
    built = image([], manifest_over={"config": config})
    found = bench.line("pull", faulty.add("x/chart", "1", built))
    assert found == (
        f"fairlead: error [manifest]: {faulty.host}/x/chart:1: {built.digest}: is not a container image "
        "but an artifact of type application/vnd.cncf.helm.config.v1+json (check the name and the tag)"
    )


def test_line_for_schema_1(bench, faulty):
    kind = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    built = image([])._replace(manifest=b'{"schemaVersion": 1, "fsLayers": []}', media_type=kind)
    found = bench.line("pull", faulty.add("x/old", "1", built))
    assert "is in Docker's schema 1, which was retired in 2017" in found


def test_line_for_a_layer_whose_archive_is_damaged(bench, registry, repository, name):
    good = layer({"a": b"x" * 5000}, "none")
    damaged = layer(good.data[:3000])
    push(registry, repository, "1", image([damaged]))
    found = bench.line("pull", f"{name}:1")
    assert found.startswith("fairlead: error [layer]: ")
    assert f"{name}:1: layer {damaged.diff_id}: " in found
    assert bench.leftovers() == []
    assert os.listdir(bench.root / "trees") == []


def test_line_for_content_that_differs_from_its_diff_id(bench, registry, repository, name):
    lying = layer(BASE)._replace(diff_id="sha256:" + "0" * 64)
    push(registry, repository, "1", image([lying]))
    found = bench.line("pull", f"{name}:1")
    assert found.startswith("fairlead: error [digest]: ")
    assert "layer sha256:0000" in found
    assert os.listdir(bench.root / "trees") == []


def test_line_for_layers_and_diff_ids_that_differ_in_number(bench, registry, repository, name):
    built = image([layer(BASE)], config_over={"rootfs": {"type": "layers", "diff_ids": []}})
    push(registry, repository, "1", built)
    assert "has 1 layers, its configuration 0 diff_ids" in bench.line("pull", f"{name}:1")


def test_index_that_nests_too_deep_is_refused(bench, faulty):
    built = image([layer(BASE)])
    for _ in range(6):
        built = index((built, platform("amd64")))
    with pytest.raises(errors.ManifestError, match="nested more than 4 deep"):
        bench.pull(faulty.add("x/y", "1", built))


# -- the store -----------------------------------------------------------------------------------


def test_damaged_document_in_the_store_is_fetched_again(bench, registry, repository, name):
    push(registry, repository, "1", image([layer(BASE)]))
    found = bench.pull(f"{name}:1")
    path = bench.root / "blobs/sha256" / found.config.digest[7:]
    path.write_bytes(path.read_bytes().replace(b"/usr/bin", b"/evilbin"))
    assert bench.pull(f"{name}:1", "missing").config == found.config


def test_entry_kinds_survive(bench, registry, repository, name):
    files = {"d/": folder(0o700), "d/f": Entry(b"x", 0o640), "big": noise(3 << 20)}
    push(registry, repository, "1", image([layer(files)]))
    root = Path(bench.pull(f"{name}:1").rootfs)
    assert (root / "big").read_bytes() == files["big"]
    assert (root / "d/f").stat().st_mode & 0o777 == 0o640


def test_image_that_another_tool_wrote_is_understood(bench, registry, repository, name):
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed")
    push(registry, repository, "1", image([layer(BASE), layer({"etc/name": b"upper\n"})]))
    words = ["skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false"]
    words += ["--format", "v2s2", f"docker://{name}:1", f"docker://{name}:2"]
    subprocess.run(words, check=True, capture_output=True)
    found = bench.pull(f"{name}:2")
    shown = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", f"docker://{name}:2"], capture_output=True
    )
    assert json.loads(shown.stdout)["Digest"] == found.digest
    assert (Path(found.rootfs) / "etc/name").read_bytes() == b"upper\n"
