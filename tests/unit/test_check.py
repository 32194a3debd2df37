"""Every kind of damage is found, named, and repaired so that a second check is clean."""

import json
import os
import shutil

import pytest
import stores

from fairlead import config as settings
from fairlead.shared import check as shared_check
from fairlead.shared import site
from fairlead.store import blobs, check, layers, layout, records
from fairlead.store.layout import Lock


@pytest.fixture
def store(tmp_path):
    return layout.open_store(settings.load({"FAIRLEAD_STORE": str(tmp_path / "s")}))


@pytest.fixture
def site_store(tmp_path):
    return stores.new_site(tmp_path / "site")


def found(store, repair=False):
    kind = shared_check if os.path.exists(store.path("grants")) else check
    return [(f.kind, os.path.relpath(f.path, store.root)) for f in kind.run(store, repair=repair)]


def flip(path, at=0):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_good_store_is_clean(store):
    stores.add_image(store, "q.io/a:1")
    assert found(store) == []


def test_garbage_is_no_finding(store):
    stores.add_tree(store)
    stores.put(store, b"nobody needs this")
    assert found(store) == []


def damage_config(store, record):
    flip(blobs.path(store, record.config), 3)


def damage_manifest(store, record):
    flip(blobs.path(store, record.manifest), 3)


def cut_blob(store, record):
    os.truncate(blobs.path(store, record.manifest), 10)


def blob_is_a_link(store, record):
    where = blobs.path(store, record.config)
    os.rename(where, store.path("other"))
    os.symlink(store.path("other"), where)


@pytest.mark.parametrize("damage", [damage_config, damage_manifest, cut_blob, blob_is_a_link])
def test_damaged_document_is_quarantined_and_its_record_goes(store, damage):
    record = stores.add_image(store, "q.io/a:1")
    damage(store, record)
    first = found(store)
    assert [kind for kind, _ in first] == ["damaged"]
    assert first[0][1].startswith("blobs/sha256/")
    assert found(store) == first  # looking repairs nothing
    assert [kind for kind, _ in found(store, repair=True)] == ["damaged", "points-nowhere"]
    assert found(store) == []
    assert len(os.listdir(store.path("quarantine"))) == 1
    assert records.all_of(store) == ()


def add_file(rootfs):
    with open(f"{rootfs}/bin/new", "wb"):
        pass


def grow_file(rootfs):
    with open(f"{rootfs}/bin/sh", "ab") as file:
        file.write(b"x")


def touch_file(rootfs):
    os.utime(f"{rootfs}/bin/sh", (1, 1))


def remove_file(rootfs):
    os.unlink(f"{rootfs}/bin/sh")


def change_mode(rootfs):
    os.chmod(f"{rootfs}/bin/sh", 0o777)


def file_becomes_link(rootfs):
    os.unlink(f"{rootfs}/bin/sh")
    os.symlink("x", f"{rootfs}/bin/sh")


@pytest.mark.parametrize(
    "damage", [add_file, grow_file, touch_file, remove_file, change_mode, file_becomes_link]
)
def test_tree_with_other_files_is_damaged(store, damage):
    record = stores.add_image(store, "q.io/a:1")
    damage(layers.rootfs(store, record.chain))
    assert found(store) == [("damaged", f"trees/{record.chain[7:]}")]
    assert [kind for kind, _ in found(store, repair=True)] == ["damaged"]
    assert found(store) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.pop("size"),
        lambda table: table.update(chain="sha256:" + "0" * 64),
        lambda table: table.update(layers=["sha256:" + "0" * 64]),
        lambda table: table.update(layers=3),
        lambda table: table.update(size="many"),
    ],
)
def test_tree_with_another_description_is_damaged(store, change):
    record = stores.add_image(store, "q.io/a:1")
    path = f"{layers.path(store, record.chain)}/tree.json"
    with open(path, encoding="ascii") as file:
        table = json.load(file)
    change(table)
    with open(path, "w", encoding="ascii") as file:
        json.dump(table, file)
    assert found(store) == [("damaged", f"trees/{record.chain[7:]}")]


def test_tree_without_files_is_damaged(store):
    record = stores.add_image(store, "q.io/a:1")
    os.rename(layers.rootfs(store, record.chain), f"{layers.path(store, record.chain)}/x")
    assert ("damaged", f"trees/{record.chain[7:]}") in found(store)


def test_tree_of_an_earlier_release_is_taken_as_it_is(store):
    record = stores.add_image(store, "q.io/a:1")
    path = f"{layers.path(store, record.chain)}/tree.json"
    with open(path, "w", encoding="ascii") as file:
        table = {"chain": record.chain, "size": 5, "entries": 2, "layers": ["sha256:" + "d" * 64]}
        json.dump(table, file)
    assert found(store) == []
    assert layers.describe(store, record.chain).disk_bytes == 5 + 2 * 2048


def test_tree_that_a_launch_holds_is_reported_and_left(store):
    record = stores.add_image(store, "q.io/a:1")
    grow_file(layers.rootfs(store, record.chain))
    fd = layers.hold(store, record.chain)
    try:
        done = list(check.run(store, repair=True))
        assert [(f.kind, f.repaired) for f in done] == [("damaged", "")]
    finally:
        os.close(fd)
    assert layers.exists(store, record.chain)


def test_record_that_is_none_or_points_nowhere_goes(store):
    record = stores.add_image(store, "q.io/a:1")
    layout.discard(blobs.path(store, record.manifest))
    name = os.listdir(store.path("images"))[0]
    with open(store.path("images", "0" * 64 + ".json"), "wb") as file:
        file.write(b"{}")
    with open(store.path("images", name), "rb") as file:
        text = file.read()
    with open(store.path("images", "1" * 64 + ".json"), "wb") as file:
        file.write(text)  # whole, and under another's name
    kinds = dict(found(store))
    assert kinds == {"damaged": f"images/{'1' * 64}.json", "points-nowhere": f"images/{name}"}
    assert len(found(store, repair=True)) == 3
    assert found(store) == []


def test_record_without_a_tree_is_the_site_store_s_business(store):
    record = stores.add_image(store, "q.io/a:1")
    layout.discard(layers.path(store, record.chain))
    assert found(store) == []


def test_foreign_names_are_quarantined(store):
    os.mkdir(store.path("trees", "x"))
    with open(store.path("blobs", "sha256", "README"), "wb"):
        pass
    assert sorted(found(store, repair=True)) == [
        ("foreign", "blobs/sha256/README"),
        ("foreign", "trees/x"),
    ]
    assert found(store) == []


def test_what_the_dead_left_is_found_and_what_the_living_do_is_not(store):
    os.mkdir(store.path("tmp", "boot.1.2.0"))
    with open(store.path("locks", "x"), "wb"):
        pass
    with Lock(store, "y"), layout.Stage(store):
        assert found(store) == [("leftover", "tmp/boot.1.2.0"), ("leftover", "locks/x")]
        assert len(found(store, repair=True)) == 2
        assert found(store) == []


# -- the site store --------------------------------------------------------------------------------


def test_good_site_store_is_clean(site_store):
    a = stores.add_layer(site_store, "a")
    stores.lease(site_store, 3, stores.grant(site_store, 1000, "1", [a]))
    assert found(site_store) == []


def flip_layer(store, layer):
    flip(site.layer_path(store, layer), 4097)


def cut_layer(store, layer):
    os.truncate(site.layer_path(store, layer), 4096)


def lose_record(store, layer):
    os.unlink(site.info_path(store, layer))


def spoil_record(store, layer):
    flip(site.info_path(store, layer))


def swap_record(store, layer):
    other = stores.add_layer(store, "b")
    os.replace(site.info_path(store, other), site.info_path(store, layer))
    os.unlink(site.layer_path(store, other))


@pytest.mark.parametrize("damage", [flip_layer, cut_layer, lose_record, spoil_record, swap_record])
def test_damaged_layer_is_quarantined_and_its_grants_go(site_store, damage):
    a = stores.add_layer(site_store, "a")
    stores.grant(site_store, 1000, "1", [a])
    damage(site_store, a)
    assert found(site_store) == [("damaged", f"layers/{a}.erofs")]
    assert found(site_store, repair=True) == [
        ("damaged", f"layers/{a}.erofs"),
        ("points-nowhere", f"grants/1000/{'1' * 64}"),
    ]
    assert found(site_store) == []


def test_damaged_and_foreign_grants_and_leases_are_quarantined(site_store):
    a = stores.add_layer(site_store, "a")
    stores.grant(site_store, 1000, "1", [a])
    stores.grant(site_store, 1001, "2", [a])
    os.rename(site.grants_path(site_store, 1001), site.grants_path(site_store, 1002))
    flip(site.grant_path(site_store, 1000, "1" * 64))
    for name in ("grants/root", "leases/x", "layers/README"):
        with open(site_store.path(name), "wb"):
            pass
    assert found(site_store, repair=True) == [
        ("foreign", "layers/README"),
        ("foreign", "grants/root"),
        ("damaged", f"grants/1000/{'1' * 64}"),
        ("damaged", f"grants/1002/{'2' * 64}"),
        ("foreign", "leases/x"),
    ]
    assert found(site_store) == []


@pytest.fixture
def indexed(site_store):
    a, b = (stores.add_layer(site_store, letter) for letter in "ab")
    stores.add_index(site_store, "e", [a, b])
    stores.grant(site_store, 1000, "1", [a, b], index="e" * 64)
    return site_store


def test_good_index_is_clean_and_a_store_of_before_has_none(indexed):
    assert found(indexed) == []
    shutil.rmtree(indexed.path("indexes"))
    assert found(indexed) == []


@pytest.mark.parametrize("where", ["flip", "cut", "record", "no record", "other"])
def test_damaged_index_is_quarantined_and_its_grants_stay(indexed, where):
    path, record = site.index_path(indexed, "e" * 64), site.index_info_path(indexed, "e" * 64)
    if where == "flip":
        flip(path, 4095)
    elif where == "cut":
        os.truncate(path, 4095)
    elif where == "record":
        flip(record)
    elif where == "no record":
        os.unlink(record)
    else:
        stores.add_index(indexed, "f", [])
        os.replace(site.index_info_path(indexed, "f" * 64), record)
        os.unlink(site.index_path(indexed, "f" * 64))
    assert found(indexed, repair=True) == [("damaged", f"indexes/{'e' * 64}.erofs")]
    assert found(indexed) == []
    assert os.path.exists(site.grant_path(indexed, 1000, "1" * 64))


def test_damaged_layer_takes_its_index_along(indexed):
    flip_layer(indexed, "a" * 64)
    kinds = [kind for kind, _ in found(indexed, repair=True)]
    assert kinds == ["damaged", "points-nowhere"]
    assert os.listdir(indexed.path("indexes")) == []
    assert found(indexed) == []


def test_index_of_a_layer_that_is_gone_and_foreign_names_are_found(indexed):
    os.unlink(site.layer_path(indexed, "a" * 64))
    with open(indexed.path("indexes/README"), "wb"):
        pass
    assert set(found(indexed, repair=True)) == {
        ("damaged", f"indexes/{'e' * 64}.erofs"),
        ("foreign", "indexes/README"),
        ("points-nowhere", f"grants/1000/{'1' * 64}"),
    }


@pytest.mark.parametrize("where", ["flip", "cut", "record", "no record", "other"])
def test_damaged_injection_is_quarantined_and_its_grants_stay(site_store, where):
    layer, name = stores.add_layer(site_store, "a"), stores.add_injection(site_store, "e")
    stores.grant(site_store, 1000, "1", [layer], injections=[name])
    assert found(site_store) == []
    path, record = site.injection_path(site_store, name), site.injection_info_path(site_store, name)
    if where == "flip":
        flip(path, 4095)
    elif where == "cut":
        os.truncate(path, 4095)
    elif where == "record":
        flip(record)
    elif where == "no record":
        os.unlink(record)
    else:
        stores.add_injection(site_store, "f")
        os.replace(site.injection_info_path(site_store, "f" * 64), record)
        os.unlink(site.injection_path(site_store, "f" * 64))
    assert found(site_store, repair=True) == [("damaged", f"injections/{name}.erofs")]
    assert found(site_store) == []
    assert os.path.exists(site.grant_path(site_store, 1000, "1" * 64))


def test_store_of_before_has_no_injections_and_what_is_none_is_foreign(site_store):
    with open(site_store.path("injections/README"), "wb"):
        pass
    assert found(site_store, repair=True) == [("foreign", "injections/README")]
    shutil.rmtree(site_store.path("injections"))
    assert found(site_store) == []
