"""Four ranks on two nodes, one clear line, status 125 (126, 127), and the nodes stay up."""

import contextlib
import os
import sys

import jobs
import pytest
from installation import plugin_words
from jobs import REGISTRY, SMALL, srun

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))
import faulty_registry as faults
import images


@pytest.fixture(autouse=True)
def _no_node_is_drained():
    yield
    assert jobs.nodes_out_of_service() == []


def line(*options, container, command=("true",), status=125, **variables):
    """Run on two nodes and four ranks; return the one error line."""
    result = srun("-N2", "-n4", *options, *command, container=container, **variables)
    lines = jobs.error_lines(result)
    assert len(lines) == 1, result.stderr
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]


@pytest.mark.parametrize(
    "text", ["bad ref", "UPPER/case:1", "x:" + "t" * 200, "x@sha256:short", "x:1:2"]
)
def test_malformed_reference(text):
    assert "error [reference]" in line(container=text)


def test_path_that_does_not_exist():
    found = line(container="../x")
    assert f"error [image-not-found]: {jobs.USER.pw_dir}/../x" in found


def test_unknown_host():
    found = line(container="no-such-registry.invalid/x:1")
    assert "error [registry-unreachable]: no-such-registry.invalid/x:1" in found


def test_closed_port():
    assert "error [registry-unreachable]: 127.0.0.1:9/x:1" in line(container="127.0.0.1:9/x:1")


def test_image_that_does_not_exist():
    assert f"error [image-not-found]: {REGISTRY}/demo/absent:1" in line(
        container=f"{REGISTRY}/demo/absent:1"
    )


def test_tag_that_does_not_exist():
    assert f"error [image-not-found]: {REGISTRY}/demo/small:99" in line(
        container=f"{REGISTRY}/demo/small:99"
    )


def test_missing_command_is_127():
    assert "error [command-not-found]: no-such" in line(
        container=SMALL, command=("no-such",), status=127
    )


def test_command_that_is_not_executable_is_126():
    found = line(container=SMALL, command=("/etc/passwd",), status=126)
    assert "error [command-not-executable]: /etc/passwd" in found


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text", b"no program"),
        ("script", b"#!/opt/absent/sh\n"),
        ("foreign", b"\x7fELF\x02\x01\x01" + b"\0" * 9 + b"\x02\0\xf3\0" + b"\0" * 60),
    ],
)
def test_file_that_the_kernel_would_not_execute_is_126(name, content):
    with registry(images.image([images.layer({f"bin/{name}": images.program(content)})])) as server:
        found = line(container=named(server), command=(f"/bin/{name}",), status=126)
    assert f"error [command-not-executable]: /bin/{name}" in found


def test_image_cannot_forge_a_line():
    config = {
        "Entrypoint": ["/bin/a\nfairlead: error [x]: forged\x1b[31m"],
        "WorkingDir": "/proc/y\nfairlead: error [y]: forged",
    }
    image = images.image([images.layer({"bin/true": images.program(os.urandom(99))})], config)
    with registry(image) as server:
        found = line("--container-entrypoint", container=named(server))
    assert "\\x0a" in found or "?" in found
    assert "\x1b" not in found


def test_workdir_that_does_not_exist():
    found = line("--container-workdir=/nowhere", container=SMALL)
    assert "error [workdir]: /nowhere: No such file or directory" in found


def test_workdir_outside():
    assert "error [workdir]" in line("--container-workdir=/proc/self/fd/3", container=SMALL)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--container-mpi=both", "--container-mpi=both: not one of auto, host, image"),
        ("--container-workdir=relative", "not an absolute path"),
        ("--container-mpi=", "not one of auto, host, image"),
    ],
)
def test_wrong_option_is_told_by_srun_before_anything_starts(option, words):
    result = srun(option, "true", container=SMALL)
    assert result.returncode == 125
    assert len(jobs.error_lines(result)) == 1
    assert words in result.stderr


@contextlib.contextmanager
def registry(image=None, **options):
    """A registry that misbehaves, with one image in it."""
    with faults.FaultyRegistry() as server:
        server.add(
            "x",
            "1",
            image or images.image([images.layer({"bin/true": images.program(os.urandom(2000))})]),
        )
        yield server


def named(server):
    return f"{server.host}/x:1"


def test_401():
    with registry() as server:
        server.fault("/manifests/", faults.said(401, "UNAUTHORIZED", "log in"))
        assert "error [auth]" in line(container=named(server))


def test_digest_mismatch():
    with registry() as server:
        server.fault("/blobs/", faults.other_body(b"other"))
        assert "error [digest]" in line(container=named(server))


def test_truncated_blob():
    with registry() as server:
        server.fault("/blobs/", faults.short(3))
        assert "error [" in line(container=named(server))


def test_registry_that_resets():
    with registry() as server:
        server.fault("/blobs/", faults.drop())
        assert "error [registry-unreachable]" in line(container=named(server))


def test_wrong_platform_lists_what_there_is():
    other = images.image([images.layer({"x": b""})])
    with registry(
        images.index((other, images.platform("s390x")), (other, images.platform("arm64", "v8")))
    ) as server:
        found = line(container=named(server))
    assert "error [platform]" in found
    assert "linux/s390x" in found
    assert "linux/arm64" in found


def test_layer_that_breaks_the_rules():
    bad = images.image([images.layer({"a": images.hardlink("missing")})])
    with registry(bad) as server:
        found = line(container=named(server))
    assert "error [layer]" in found
    assert "'a'" in found


def test_not_an_image():
    manifest = {
        "config": {
            "mediaType": "application/vnd.example.model",
            "digest": "sha256:" + "0" * 64,
            "size": 2,
        }
    }
    with registry(
        images.image([images.layer({"weights": b"1"})], manifest_over=manifest)
    ) as server:
        found = line(container=named(server))
    assert "error [manifest]" in found
    assert "not a container image" in found


def test_store_without_space():
    """A file system of one megabyte, which every node of the bed has for this test."""
    place = "/var/lib/fairlead-bed/tiny"
    with plugin_words():  # the user's own store, which a shared one would make unnecessary
        found = line(container=jobs.MPI, FAIRLEAD_STORE=f"{place}/store")
    assert "error [no-space]" in found
    assert place in found


def test_store_of_another_user():
    found = line(container=SMALL, FAIRLEAD_STORE="/etc")
    assert "error [store]: /etc" in found


def test_wrong_setting_of_the_user():
    found = line(container=SMALL, FAIRLEAD_PULL="sometimes")
    assert "error [config]" in found
    assert "FAIRLEAD_PULL" in found
