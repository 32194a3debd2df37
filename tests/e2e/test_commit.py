"""commit, push, export, import: what is written is what was changed, and others read it."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import images
import pytest
from opencontainers.image.v1 import Image as SpecImage
from opencontainers.image.v1 import Index as SpecIndex
from opencontainers.image.v1 import Manifest as SpecManifest
from ordinary import GID, UID, User
from podman_store import Podman

APPLETS = ("sh", "cat", "echo", "ln", "env", "touch", "ls", "rm", "mkdir", "mv", "chmod", "mkfifo")


@pytest.fixture(scope="module")
def image(registry: str) -> str:
    """Two layers, one of them as Docker calls it."""
    files: dict[str, bytes | images.Entry] = {
        "bin/busybox": images.program(Path("/bin/busybox").read_bytes()),
        "srv/data": b"data of the image\n",
        "srv/old": b"old\n",
        "srv/dir/a": b"a\n",
        "srv/dir/b": b"b\n",
        "srv/kept/a": b"a\n",
    }
    files.update({f"bin/{name}": images.symlink("busybox") for name in APPLETS})
    config: dict[str, object] = {"Env": ["PATH=/bin", "FROM=image"], "WorkingDir": "/srv"}
    layers = [images.layer(files), images.layer({"srv/second": b"2\n"}, "zstd")]
    images.push(registry, "commit/box", "1", images.image(layers, config))
    return f"{registry}/commit/box:1"


CHANGE = (
    "echo new > data; rm old; rm -r dir; mkdir dir; echo c > dir/c; mkdir -m 700 made;"
    "ln -s data link; ln made/one made/none 2>/dev/null; echo 1 > made/one; ln made/one made/two;"
    "touch kept/new; mkfifo pipe; chmod 751 /srv; echo x > /bin/tool; chmod 4755 /bin/tool"
)


@pytest.fixture
def box(user: User, image: str) -> User:
    """A user with a container in which something was changed."""
    done = user.run("run", "--name", "box", image, "sh", "-c", CHANGE)
    assert done.returncode == 0, done.stderr
    return user


def get(host: str, path: str) -> bytes:
    connection = http.client.HTTPConnection(host)
    accept = {"Accept": f"{images.OCI_MANIFEST}, {images.DOCKER_MANIFEST}"}
    connection.request("GET", path, headers=accept)
    answer = connection.getresponse()
    assert answer.status == 200, path
    return answer.read()


def pushed(name: str) -> tuple[dict, dict, list[bytes]]:  # type: ignore[type-arg]
    """The documents and layers of an image in a registry, checked by the independent validator."""
    host, _, rest = name.partition("/")
    repository, _, tag = rest.partition(":")
    manifest = json.loads(get(host, f"/v2/{repository}/manifests/{tag}"))
    config = json.loads(get(host, f"/v2/{repository}/blobs/{manifest['config']['digest']}"))
    SpecManifest().load({k: v for k, v in manifest.items() if k != "mediaType"})
    SpecImage().load(config)
    layers = [get(host, f"/v2/{repository}/blobs/{item['digest']}") for item in manifest["layers"]]
    return manifest, config, layers


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: member for member in tar}


def test_the_layer_holds_what_was_changed_and_nothing_else(
    box: User, image: str, registry: str
) -> None:
    name = f"{registry}/commit/saved:2"
    done = box.run("commit", "box", f"docker://{name}")
    manifest, config, layers = pushed(name)
    digest = hashlib.sha256(get(registry, "/v2/commit/saved/manifests/2")).hexdigest()
    assert (done.stdout, done.stderr) == (f"{registry}/commit/saved@sha256:{digest}\n", "")
    below, _, old = pushed(image)
    assert layers[:2] == old
    assert [item["digest"] for item in manifest["layers"][:2]] == [
        item["digest"] for item in below["layers"]
    ]
    assert len(layers) == len(config["rootfs"]["diff_ids"]) == 3
    assert len(config["history"]) == 3
    plain = gzip.decompress(layers[2])
    assert config["rootfs"]["diff_ids"][2] == f"sha256:{hashlib.sha256(plain).hexdigest()}"
    assert config["config"]["Env"] == ["PATH=/bin", "FROM=image"]
    found = members(plain)
    assert sorted(found) == [
        *("bin", "bin/tool", "srv", "srv/.wh.old", "srv/data", "srv/dir", "srv/dir/.wh..wh..opq"),
        *("srv/dir/c", "srv/kept", "srv/kept/new", "srv/link", "srv/made", "srv/made/one"),
        *("srv/made/two", "srv/pipe"),
    ]
    assert {(m.uid, m.gid, m.uname, m.gname) for m in found.values()} == {(0, 0, "", "")}
    assert found["srv"].mode == 0o751
    assert found["srv/made"].mode == 0o700
    assert found["bin/tool"].mode == 0o4755
    assert found["srv/link"].linkname == "data"
    assert (found["srv/made/two"].islnk(), found["srv/made/two"].linkname) == (True, "srv/made/one")
    assert found["srv/pipe"].isfifo()


@pytest.mark.parametrize(
    ("demand", "line"),
    [
        ({"type": "reject"}, "error [policy]: {ref}: is rejected by {place}/policy.json: default"),
        (
            {"type": "signedBy", "keyType": "GPGKeys", "keyData": "AAAA"},
            (
                "error [signature]: {ref}: {place}/policy.json: default requires a signature (signedBy), "
                "and {digest} has none"
            ),
        ),
    ],
)
def test_layers_of_an_image_that_the_policy_has_come_to_refuse_are_not_passed_on(
    box: User, image: str, registry: str, demand: dict[str, str], line: str
) -> None:
    place = Path(box.place) / "containers"
    place.mkdir()
    (place / "policy.json").write_text(json.dumps({"default": [demand]}))
    site = Path(box.place) / "site.toml"
    site.write_text(f'containers_config = "{place}"\n')
    digest = json.loads(box.run("inspect", image).stdout)["digest"]
    box.environ["FAIRLEAD_SITE_CONFIG"] = str(site)
    for words in (("commit", "box"), ("push", image)):
        done = box.run(*words, f"docker://{registry}/commit/refused:1")
        assert (done.returncode, done.stdout) == (125, "")
        told = done.stderr.splitlines()[-1]
        wanted = line.replace("{place}", str(place)).replace("{digest}", digest)
        assert told.startswith(f"fairlead: {wanted.split('{ref}')[0]}"), told
        assert wanted.split("{ref}")[1] in told
    connection = http.client.HTTPConnection(registry)
    connection.request("GET", "/v2/commit/refused/tags/list")
    assert connection.getresponse().status == 404


def test_the_same_changes_give_the_same_image(box: User, registry: str) -> None:
    box.environ["SOURCE_DATE_EPOCH"] = "1700000000"
    said = {box.run("commit", "box", f"docker://{registry}/commit/saved:{n}").stdout for n in "34"}
    assert len(said) == 1
    _, config, _ = pushed(f"{registry}/commit/saved:3")
    assert config["created"] == "2023-11-14T22:13:20Z"


SEEN = "cat data dir/* made/two; ls . dir made /bin/tool; test ! -e old && echo gone; echo $FROM"
EXPECTED = (
    "new\nc\n1\n/bin/tool\n\n.:\ndata\ndir\nkept\nlink\nmade\npipe\nsecond\n\n"
    "dir:\nc\n\nmade:\none\ntwo\ngone\nimage\n"
)


def test_fairlead_runs_what_was_committed(box: User, image: str, registry: str) -> None:
    box.run("commit", "box", f"docker://{registry}/commit/saved:5")
    box.run("commit", "box", "oci:layout:x")
    box.run("commit", "box", "box.sqsh")
    for name in (f"{registry}/commit/saved:5", "oci:layout:x"):
        shown = box.run("run", name, "sh", "-c", SEEN)
        assert (shown.stdout, shown.stderr) == (EXPECTED, "")
    shown = box.run(
        "run", "-w", "/srv", "-e", "FROM=image", "./box.sqsh", "/bin/sh", "-c", f"PATH=/bin; {SEEN}"
    )
    assert (shown.stdout, shown.stderr) == (EXPECTED, "")


@pytest.fixture
def podman() -> Iterator[Podman]:
    if os.geteuid() != 0 or shutil.which("podman") is None:
        pytest.skip("starts as root, with podman")
    place = Path(tempfile.mkdtemp(prefix="fairlead-podman-", dir="/var/tmp"))
    made = Podman(place, "vfs", rootless=False)
    yield made
    made.end()
    subprocess.run(["rm", "-rf", "--one-file-system", str(place)], check=True)


def test_podman_and_skopeo_read_what_was_committed(
    box: User, registry: str, podman: Podman
) -> None:
    name = f"{registry}/commit/saved:6"
    box.run("commit", "box", f"docker://{name}")
    podman.podman("pull", "--quiet", "--tls-verify=false", name)
    # Their own unpacking: mounted, not run, since this machine's cgroups are beyond podman.
    root = Path(podman.podman("image", "mount", name).strip())
    assert (root / "srv/data").read_text() == "new\n"
    assert sorted(os.listdir(root / "srv")) == [
        "data",
        "dir",
        "kept",
        "link",
        "made",
        "pipe",
        "second",
    ]
    assert os.listdir(root / "srv/dir") == ["c"]
    assert (root / "srv/made/one").stat().st_nlink == 2
    podman.podman("image", "umount", name)
    # This machine's mixed cgroups are beyond crun, so none are in sight.
    hidden = (
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs t /sys/fs/cgroup && exec "$@"',
        "sh",
    )
    run = (
        "podman",
        "--runtime=crun",
        "--cgroup-manager=cgroupfs",
        "run",
        "--rm",
        "--cgroups=disabled",
        # Its own defaults may be more than whoever runs the tests has.
        "--ulimit=nofile=1024",
        "--ulimit=nproc=1024",
    )
    more = ("--network=host", "--security-opt=seccomp=unconfined", name, "sh", "-c", SEEN)
    shown = subprocess.run(
        [*hidden, *run, *more], env=podman.environ, capture_output=True, text=True, timeout=120
    )
    assert shown.stdout == EXPECTED, shown.stderr
    skopeo = ["skopeo", "inspect", "--tls-verify=false", f"docker://{name}"]
    assert len(json.loads(subprocess.check_output(skopeo))["Layers"]) == 3
    box.run("commit", "box", "oci:layout:x")
    SpecIndex().load(
        {
            k: v
            for k, v in json.loads(Path(f"{box.place}/layout/index.json").read_text()).items()
            if k != "mediaType"
        }
    )
    target = f"{box.place}/copied"
    subprocess.run(
        ["skopeo", "copy", "-q", f"oci:{box.place}/layout:x", f"dir:{target}"], check=True
    )


def test_mounts_of_the_launch_are_not_in_it(user: User, image: str, registry: str) -> None:
    os.makedirs(f"{user.place}/in")
    Path(f"{user.place}/in/host").write_text("of the host\n")
    words = (
        "run",
        "--name",
        "box",
        "-v",
        "in:/new/point",
        "-v",
        "in:/srv/dir",
        "--tmpfs",
        "/srv/t",
    )
    assert user.run(*words, image, "sh", "-c", "echo x > /srv/mine; mkdir /new/own").returncode == 0
    user.run("commit", "box", f"docker://{registry}/commit/saved:7")
    found = members(gzip.decompress(pushed(f"{registry}/commit/saved:7")[2][2]))
    assert sorted(found) == ["new", "new/own", "srv", "srv/mine"]


def test_a_container_without_changes_is_its_image(user: User, image: str, registry: str) -> None:
    user.run("run", "--name", "box", image, "echo")
    digest = json.loads(user.run("inspect", image).stdout)["digest"]
    done = user.run("commit", "box", f"docker://{registry}/commit/unchanged:1")
    assert done.stdout == f"{registry}/commit/unchanged@{digest}\n", done.stderr


def test_swapped_parents_lead_nowhere(user: User, image: str, registry: str) -> None:
    """podman CVE-2019-10152: what is a directory when it is listed is a link when it is opened."""
    user.run("run", "--name", "box", image, "sh", "-c", "mkdir evil; echo x > evil/passwd")
    upper = Path(user.place) / "store/containers/0.box/upper/srv"
    shutil.rmtree(upper / "evil")
    (upper / "evil").symlink_to("/etc")
    (upper / "file").symlink_to("/etc/passwd")
    user.run("commit", "box", f"docker://{registry}/commit/saved:8")
    found = members(gzip.decompress(pushed(f"{registry}/commit/saved:8")[2][2]))
    assert sorted(found) == ["srv", "srv/evil", "srv/file"]
    assert (found["srv/evil"].issym(), found["srv/file"].issym()) == (True, True)
    user.run("export", "--container", "box", "box.tar")
    with tarfile.open(f"{user.place}/box.tar") as tar:
        assert not [name for name in tar.getnames() if name.startswith("srv/evil/")]


def test_unreadable_files_of_the_user_are_saved(user: User, image: str) -> None:
    script = "echo x > closed; chmod 0 closed; mkdir shut; echo y > shut/in; chmod 0 shut"
    user.run("run", "--name", "box", image, "sh", "-c", script)
    done = user.run("export", "--container", "box", "box.tar")
    assert done.stdout == f"{user.place}/box.tar\n", done.stderr
    with tarfile.open(f"{user.place}/box.tar") as tar:
        file = tar.extractfile("srv/closed")
        assert file
        assert file.read() == b"x\n"
        assert tar.getmember("srv/shut").mode == 0
        assert tar.getmember("srv/shut/in").size == 2


def test_push_keeps_the_digest_and_takes_layers_over(user: User, image: str, registry: str) -> None:
    digest = json.loads(user.run("inspect", image).stdout)["digest"]
    done = user.run("push", image, f"docker://{registry}/commit/copy:1")
    assert done.stdout == f"{registry}/commit/copy@{digest}\n", done.stderr
    assert user.run("push", image, "oci:layout:a").stdout == f"oci:{user.place}/layout:a@{digest}\n"
    assert user.run("push", "oci:layout:a", f"docker://{registry}/commit/copy:2").returncode == 0
    assert get(registry, "/v2/commit/copy/manifests/1") == get(
        registry, "/v2/commit/copy/manifests/2"
    )
    # A name in a layout is replaced, others stay.
    user.run("push", image, "oci:layout:b")
    user.run("push", image, "oci:layout:a")
    index = json.loads(Path(f"{user.place}/layout/index.json").read_text())
    names = [
        entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]
    ]
    assert names == ["b", "a"]


@pytest.mark.parametrize("compression", ["plain", "gz", "zst", "xz"])
def test_a_roots_archive_becomes_an_image(user: User, image: str, compression: str) -> None:
    user.run("export", image, "root.tar")
    path = f"{user.place}/root.tar"
    programs = {"gz": ["gzip", "-k"], "zst": ["zstd", "-q", "-k"], "xz": ["xz", "-k", "-0"]}
    if compression in programs:
        subprocess.run([*programs[compression], path], check=True)
        os.unlink(path)
        path = f"{path}.{compression}"
    done = user.run("import", os.path.basename(path), "oci:layout:1")
    assert done.returncode == 0, done.stderr
    shown = user.run("run", "oci:layout:1", "/bin/cat", "/srv/data", "/srv/second")
    assert (shown.stdout, shown.stderr) == ("data of the image\n2\n", "")


def test_a_squashfs_file_becomes_an_image_with_its_environment(user: User, image: str) -> None:
    user.run("run", "--name", "box", image, "sh", "-c", "mkdir /etc; echo A=1 > /etc/environment")
    user.run("commit", "box", "box.sqsh")
    done = user.run("import", "box.sqsh", "oci:layout:1")
    assert done.returncode == 0, done.stderr
    shown = user.run("run", "oci:layout:1", "/bin/sh", "-c", "echo $A")
    assert (shown.stdout, shown.stderr) == ("1\n", "")


def test_a_damaged_archive_is_refused(user: User) -> None:
    Path(f"{user.place}/bad.tar").write_bytes(b"x" * 4096)
    Path(f"{user.place}/cut.tar.gz").write_bytes(gzip.compress(b"x" * 4096)[:-20])
    bad = user.run("import", "bad.tar", "oci:layout")
    assert bad.stderr.startswith(f"fairlead: error [layer]: {user.place}/bad.tar: ")
    cut = user.run("import", "cut.tar.gz", "oci:layout")
    assert cut.stderr.startswith("fairlead: error [")
    assert cut.stderr.count("\n") == 1
    assert not os.path.exists(f"{user.place}/layout")


def test_what_cannot_be_done_is_one_line(box: User, image: str, registry: str) -> None:
    os.makedirs(f"{box.place}/full")
    os.chown(f"{box.place}/full", UID, GID)
    Path(f"{box.place}/full/file").write_text("mine\n")
    node = os.uname().nodename
    for words, line in (
        (("commit", "absent", "x.sqsh"), f"error [container]: absent: there is no container of this name on {node} (make one with fairlead run --name or srun --container-name)"),
        (("commit", "box", "x.img"), "error [usage]: x.img: cannot be saved to (write PATH.sqsh, PATH.tar, oci:PATH[:TAG] or docker://REFERENCE)"),
        (("commit", "box", "absent/x.sqsh"), f"error [archive]: {box.place}/absent/x.sqsh: cannot be written: No such file or directory (check its place and permissions)"),
        (("commit", "box", "absent/x.tar"), f"error [archive]: {box.place}/absent/x.tar: cannot be written: No such file or directory (check its place and permissions)"),
        (("commit", "box", "oci:full"), f"error [archive]: {box.place}/full: is no OCI image layout, and not empty (name another directory)"),
        (("commit", "box", "docker://127.0.0.1:1/x:1"), "error [registry-unreachable]: 127.0.0.1:1/x:1: "),
        (("push", image, "x.sqsh"), "error [usage]: x.sqsh: is no place for an image (write docker://REFERENCE or oci:PATH[:TAG], or use fairlead export)"),
        (("push", f"{registry}/commit/absent:1", "oci:l"), f"error [image-not-found]: {registry}/commit/absent:1"),
        (("export", image, "oci:l"), "error [usage]: oci:l: is no file (write PATH.sqsh or PATH.tar, or use fairlead push or commit)"),
        (("import", "absent.tar", "oci:l"), f"error [image-not-found]: {box.place}/absent.tar: No such file or directory"),
        (("import", "full", "x.tar"), "error [usage]: x.tar: is no place for an image (write oci:PATH[:TAG] or docker://REFERENCE)"),
    ):  # fmt: skip
        done = box.run(*words)
        assert (done.returncode, done.stdout) == (125, ""), words
        assert done.stderr.startswith(f"fairlead: {line}"), words
        assert done.stderr.count("\n") == 1, done.stderr
    assert os.listdir(f"{box.place}/full") == ["file"]
    assert sorted(os.listdir(box.place)) == ["full", "store"]
