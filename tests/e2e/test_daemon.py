"""dockerd://NAME: a program in docker's place answers as docker does; what it saves are real archives."""

from __future__ import annotations

import pytest
from images import folder, image, layer
from local_images import docker_archive

from fairlead import errors
from fairlead.store import fetch

# What docker 27 prints and how it ends, with the daemon's state in files.
DOCKER = """#!/bin/sh
cd {place} && echo "$*" >>asked
name=$(cat name)
absent() {{ echo "Error response from daemon: No such image: $1" >&2; exit 1; }}
if test -e broken; then cat broken >&2; exit 1; fi
case $1 in
image) test "$5" = "$name" || absent "$5"; cat id ;;
save) test "$2" = "$name" || absent "$2"; cat image.tar ;;
esac
"""


class Daemon:
    def __init__(self, bench, place):
        self.place = place
        program = place / "bin/docker"
        program.parent.mkdir(parents=True)
        program.write_text(DOCKER.format(place=place))
        program.chmod(0o755)
        bench.environ["PATH"] = f"{program.parent}:{bench.environ['PATH']}"
        bench.environ["TMPDIR"] = str(place / "tmp")
        (place / "tmp").mkdir()

    def has(self, name, text):
        only = layer({"etc/": folder(), "etc/name": text}, "none")
        made = image([only], {"Env": ["A=b"]})
        docker_archive(self.place / "image.tar", made, {"l/layer.tar": only.data}, ("whatever:1",))
        (self.place / "name").write_text(name)
        (self.place / "id").write_text(f"{made.config_digest}\n")

    def asked(self):
        path = self.place / "asked"
        found = [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []
        path.write_text("")
        return found


@pytest.fixture
def daemon(bench, tmp_path):
    return Daemon(bench, tmp_path / "docker")


def name_in(found):
    with open(f"{found.rootfs}/etc/name", encoding="ascii") as file:
        return file.read()


@pytest.mark.parametrize("spelling", ["dockerd://team/box:2", "docker-daemon:team/box:2"])
def test_image_is_saved_once_and_asked_for_at_each_launch(bench, daemon, spelling):
    daemon.has("docker.io/team/box:2", b"one")
    found = bench.pull(spelling, "newer")
    assert name_in(found) == "one"
    assert found.reference == "docker-daemon:docker.io/team/box:2"
    assert dict(found.config.env) == {"A": "b"}
    assert daemon.asked() == ["image", "save"]
    assert name_in(bench.pull(spelling, "newer")) == "one"
    assert daemon.asked() == ["image"]
    daemon.has("docker.io/team/box:2", b"two")
    assert name_in(bench.pull(spelling, "newer")) == "two"
    assert daemon.asked() == ["image", "save"]
    assert bench.leftovers() == []
    assert list((daemon.place / "tmp").iterdir()) == []


def test_image_that_docker_no_longer_has_runs_from_the_store_with_a_note(bench, daemon, capfd):
    daemon.has("docker.io/library/box:latest", b"one")
    bench.pull("dockerd://box", "newer")
    daemon.has("other:latest", b"two")
    assert name_in(bench.pull("dockerd://box", "newer")) == "one"
    assert "No such image: docker.io/library/box:latest; using what the store has of it" in (
        capfd.readouterr().err
    )
    with pytest.raises(errors.ImageNotFoundError):
        bench.pull("dockerd://box", "always")


def test_what_docker_says_is_the_line(bench, daemon):
    daemon.has("docker.io/library/box:latest", b"one")
    assert bench.line("pull", "-q", "dockerd://absent:1") == (
        "fairlead: error [image-not-found]: docker-daemon:docker.io/library/absent:1: docker image: "
        "Error response from daemon: No such image: docker.io/library/absent:1 (see docker images)"
    )
    (daemon.place / "broken").write_text("Cannot connect to the Docker daemon.\nIs it \033running?")
    assert bench.line("pull", "-q", "dockerd://box") == (
        "fairlead: error [archive]: docker-daemon:docker.io/library/box:latest: docker image: Cannot "
        "connect to the Docker daemon. Is it \\x1brunning? "
        "(check that this node has a daemon, and that you may use it)"
    )
    assert fetch.images(bench.store) == ()


def test_archive_that_is_cut_short_leaves_nothing(bench, daemon):
    daemon.has("docker.io/library/box:latest", b"one")
    (daemon.place / "image.tar").write_bytes(b"x" * 512)
    with pytest.raises(errors.ArchiveError):
        bench.pull("dockerd://box")
    assert fetch.images(bench.store) == ()
    assert list((daemon.place / "tmp").iterdir()) == []


def test_node_without_docker_says_what_to_do(bench):
    line = bench.line("pull", "-q", "dockerd://box", PATH="/nowhere")
    assert line.startswith(
        "fairlead: error [image-not-found]: docker-daemon:docker.io/library/box:latest: "
    )
    assert line.endswith(
        " has no program docker, which could ask for it (write it with docker save elsewhere, and "
        "name docker-archive:FILE)"
    )
