"""Injections in the site store: made once, found again, made anew where they are not what they were."""

import os

import pytest
import stores

import fairlead
from fairlead import errors
from fairlead.shared import injection, keeper, site

CHAIN = "sha256:" + "c" * 64


class Writer:
    """Writes an image file, as the builder does, and counts."""

    def __init__(self, content=b"erofs" * 1000):
        self.content, self.times = content, 0

    def __call__(self, place, image_fd, scratch_fd):
        assert os.listdir(place) == []
        self.times += 1
        os.write(image_fd, self.content)


@pytest.fixture
def store(tmp_path):
    return stores.new_site(tmp_path / "site")


def left(store):
    return [name for folder in ("tmp", "locks") for name in os.listdir(store.path(folder))]


def test_name_is_worked_out_from_what_it_is_made_of(monkeypatch):
    name = injection.name_of(CHAIN, ["a", "b"])
    assert site.is_name(name)
    others = {injection.name_of(CHAIN, ["b", "a"]), injection.name_of(CHAIN, ["a"]),
              injection.name_of("sha256:" + "d" * 64, ["a", "b"])}  # fmt: skip
    monkeypatch.setattr(fairlead, "__version__", "0.0.0")
    others.add(injection.name_of(CHAIN, ["a", "b"]))
    assert len(others | {name}) == 5


def test_injection_is_made_once(store):
    write = Writer()
    made = injection.make(store, CHAIN, ["a"], write)
    assert injection.make(store, CHAIN, ["a"], write) == made
    assert write.times == 1
    assert (made.size, made.chain, made.profiles) == (5000, CHAIN, ("a",))
    path = site.injection_path(store, made.name)
    assert os.stat(path).st_mode & 0o777 == 0o400
    assert injection.find(store, made.name) == made
    assert left(store) == []


@pytest.mark.parametrize("damage", ["cut", "flip", "no record", "no image"])
def test_injection_that_is_not_what_it_was_is_made_anew(store, damage):
    write = Writer()
    made = injection.make(store, CHAIN, ["a"], write)
    path, record = site.injection_path(store, made.name), site.injection_info_path(store, made.name)
    if damage == "no record":
        os.unlink(record)
    elif damage == "no image":
        os.unlink(path)
    else:
        os.chmod(path, 0o600)
        with open(path, "r+b") as file:
            file.truncate(4999) if damage == "cut" else file.write(b"E")
    assert injection.make(store, CHAIN, ["a"], write) == made
    assert write.times == 2
    with open(path, "rb") as file:
        assert file.read() == write.content


def test_writer_that_fails_leaves_nothing(store):
    def fail(place, image_fd, scratch_fd):
        os.write(image_fd, b"half")
        raise errors.MpiError("does not fit")

    with pytest.raises(errors.MpiError):
        injection.make(store, CHAIN, ["a"], fail)
    assert os.listdir(store.path("injections")) == []
    assert left(store) == []


def test_full_disk_is_refused_before_anything_is_read(store):
    write = Writer()
    with pytest.raises(errors.SpaceError, match="has no room for an injection"):
        injection.make(store, CHAIN, ["a"], write, floor_bytes=1 << 60)
    assert write.times == 0


def test_new_grant_names_this_release_s_injections_of_its_layers(store, monkeypatch):
    old, new = (injection.make(store, CHAIN, [letter], Writer()).name for letter in "ab")
    injection.make(store, "sha256:" + "d" * 64, ["a"], Writer())
    os.utime(site.injection_path(store, old), (1000, 1000))
    assert injection.of_chain(store, CHAIN) == ((new, 5000), (old, 5000))
    monkeypatch.setattr(fairlead, "__version__", "0.0.0")
    assert injection.of_chain(store, CHAIN) == ()


def test_store_of_before_gets_a_place_for_injections(store):
    os.rmdir(store.path("injections"))
    assert injection.names(store) == []
    assert injection.make(store, CHAIN, ["a"], Writer()).size == 5000


def test_grant_gets_the_newest_injections_and_no_new_time_of_proof(store):
    layer = stores.add_layer(store, "a")
    manifest = stores.grant(store, 1000, "1", [layer], used=5000)
    path = site.grant_path(store, 1000, manifest)
    infos = [injection.make(store, CHAIN, [str(number)], Writer()) for number in range(17)]
    for info in (*infos, infos[-1]):
        keeper._add_injection(store, path, info)
    with open(path, encoding="ascii") as file:
        grant = site.parse_grant(file.read(), path)
    assert grant.injections == tuple((info.name, 5000) for info in infos[:0:-1])
    assert (grant.layers, os.stat(path).st_mtime) == ((layer,), 5000)
