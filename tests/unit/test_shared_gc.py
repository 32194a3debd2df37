"""What gc removes from the site store: nothing that a living job, or a storekeeper at work, needs."""

import os
import time

import pytest
import stores

from fairlead import errors
from fairlead.shared import gc as shared_gc
from fairlead.shared import site, turn
from fairlead.shared.gc import Living
from fairlead.store.layout import Lock

EVERYTHING = 1 << 62
NOBODY = Living(frozenset(), time.time() + 3600)


@pytest.fixture
def store(tmp_path):
    return stores.new_site(tmp_path / "site")


def layers(store):
    return sorted(n[0] for n in os.listdir(store.path("layers")) if n.endswith(".erofs"))


def removed(store, wanted=EVERYTHING, living=NOBODY):
    done = shared_gc.collect(store, wanted, living)
    return [item.name[0] for item in done.removed if item.kind == "layer"]


def grants_of(store, uid):
    return sorted(name[0] for name in os.listdir(site.grants_path(store, uid)))


def test_layers_go_by_the_last_use_of_any_image_that_needs_them(store):
    a, b, c = (stores.add_layer(store, letter) for letter in "abc")
    stores.grant(store, 1000, "1", [a, b], used=100)
    stores.grant(store, 1001, "2", [b, c], used=200)
    assert removed(store, 1) == ["a"]
    assert removed(store, 1) == ["b"]
    assert removed(store, 1) == ["c"]


def test_grants_go_with_the_first_layer_that_they_need(store):
    a, b = (stores.add_layer(store, letter) for letter in "ab")
    stores.grant(store, 1000, "1", [a, b], used=100)
    stores.grant(store, 1001, "1", [a, b], used=100)
    stores.grant(store, 1001, "2", [b], used=200)
    assert removed(store, 1) == ["a"]
    assert (grants_of(store, 1000), grants_of(store, 1001)) == ([], ["2"])
    assert layers(store) == ["b"]
    assert sorted(os.listdir(store.path("layers"))) == [f"{b}.erofs", f"{b}.json"]


def test_broker_s_touch_is_a_use(store):
    a, b = (stores.add_layer(store, letter) for letter in "ab")
    manifest = stores.grant(store, 1000, "1", [a], used=100)
    stores.grant(store, 1000, "2", [b], used=200)
    os.utime(site.grant_path(store, 1000, manifest), (300, 100))
    assert removed(store, 1) == ["b"]


def test_looking_is_no_use(store):
    a = stores.add_layer(store, "a")
    manifest = stores.grant(store, 1000, "1", [a], used=100)
    shared_gc.inventory(store, NOBODY)
    assert os.stat(site.grant_path(store, 1000, manifest)).st_atime == 100


def test_lease_of_a_living_job_holds(store):
    a = stores.add_layer(store, "a")
    stores.lease(store, 12, stores.grant(store, 1000, "1", [a]))
    living = Living(frozenset({12}), NOBODY.asked)
    done = shared_gc.collect(store, EVERYTHING, living)
    assert [item.held for item in done.spared] == ["job 12"]
    assert layers(store) == ["a"]
    assert grants_of(store, 1000) == ["1"]


def test_lease_of_a_dead_job_is_removed_and_holds_nothing(store):
    a = stores.add_layer(store, "a")
    stores.lease(store, 12, stores.grant(store, 1000, "1", [a]))
    assert removed(store, living=Living(frozenset({13}), NOBODY.asked)) == ["a"]
    assert os.listdir(store.path("leases")) == []


def test_lease_holds_for_every_user_with_the_image(store):
    a = stores.add_layer(store, "a")
    stores.grant(store, 1000, "1", [a])
    stores.lease(store, 12, stores.grant(store, 1001, "1", [a]))
    assert removed(store, living=Living(frozenset({12}), NOBODY.asked)) == []
    assert grants_of(store, 1000) == ["1"]


def test_lease_that_is_younger_than_slurm_s_answer_holds(store):
    a = stores.add_layer(store, "a")
    asked = time.time() - 5
    stores.lease(store, 12, stores.grant(store, 1000, "1", [a]))
    assert removed(store, living=Living(frozenset(), asked)) == []


def test_without_an_answer_from_slurm_leases_of_this_boot_hold(store):
    a, b = (stores.add_layer(store, letter) for letter in "ab")
    stores.lease(store, 12, stores.grant(store, 1000, "1", [a]))
    earlier = shared_gc.boot_time() - 100
    stores.lease(store, 11, stores.grant(store, 1000, "2", [b]), made=earlier)
    assert removed(store, living=Living(None, NOBODY.asked)) == ["b"]
    assert os.listdir(store.path("leases")) == [f"12.{'1' * 64}"]


def test_job_that_begins_at_the_last_moment_keeps_its_layers(store, monkeypatch):
    a = stores.add_layer(store, "a")
    manifest = stores.grant(store, 1000, "1", [a])
    living = Living(frozenset(), time.time() - 1)
    found = shared_gc.inventory(store, living)
    stores.lease(store, 12, manifest)
    monkeypatch.setattr(shared_gc, "_inventory", lambda *_: found)
    done = shared_gc.collect(store, EVERYTHING, living)
    assert [item.name for item in done.spared] == [a]
    assert (layers(store), grants_of(store, 1000)) == (["a"], ["1"])


def test_layer_that_no_grant_names_is_garbage_unless_a_storekeeper_works(store):
    stores.add_layer(store, "a")
    with turn.work(store):
        assert removed(store) == []
    assert removed(store, 0) == ["a"]


def test_storekeepers_work_side_by_side(store):
    with turn.work(store), turn.work(store), turn.alone(store) as alone:
        assert not alone
    with turn.alone(store) as alone:
        assert alone


def test_layer_that_is_being_made_stays(store):
    a = stores.add_layer(store, "a")
    stores.grant(store, 1000, "1", [a])
    with Lock(store, site.lock_name(a)):
        assert removed(store) == []


def test_record_without_its_image_is_garbage(store):
    a = stores.add_layer(store, "a")
    os.unlink(site.layer_path(store, a))
    with turn.work(store):
        shared_gc.collect(store, 0, NOBODY)
        assert os.listdir(store.path("layers")) == [f"{a}.json"]
    shared_gc.collect(store, 0, NOBODY)
    assert os.listdir(store.path("layers")) == []


def indexes(store):
    return sorted(n[0] for n in os.listdir(store.path("indexes")) if n.endswith(".erofs"))


def test_index_goes_with_the_first_of_its_layers(store):
    a, b, c = (stores.add_layer(store, letter) for letter in "abc")
    stores.grant(store, 1000, "1", [a, b], used=100, index=stores.add_index(store, "e", [a, b]))
    stores.grant(store, 1000, "2", [b, c], used=200, index=stores.add_index(store, "f", [b, c]))
    assert removed(store, 1) == ["a"]
    assert indexes(store) == ["f"]
    assert os.path.exists(site.index_info_path(store, "f" * 64))
    assert not os.path.exists(site.index_info_path(store, "e" * 64))


def test_index_is_counted_and_held_like_a_layer(store):
    a, b = (stores.add_layer(store, letter) for letter in "ab")
    name = stores.add_index(store, "e", [a, b])
    manifest = stores.grant(store, 1000, "1", [a, b], index=name)
    living = Living(frozenset({9}), time.time() - 1)
    stores.lease(store, 9, manifest)
    found = {item.name: item for item in shared_gc.inventory(store, living)}
    assert (found[name].kind, found[name].images, found[name].held) == (
        "index", (manifest,), "job 9",
    )  # fmt: skip
    assert found[name].size >= 4096
    assert removed(store, EVERYTHING, living) == []
    assert indexes(store) == ["e"]


def test_index_that_no_grant_names_is_garbage_unless_a_storekeeper_works(store):
    a, b = (stores.add_layer(store, letter) for letter in "ab")
    stores.grant(store, 1000, "1", [a, b])
    stores.add_index(store, "e", [a, b])
    with turn.work(store):
        shared_gc.collect(store, 0, NOBODY)
        assert indexes(store) == ["e"]
    os.unlink(site.index_path(store, stores.add_index(store, "f", [a, b])))
    shared_gc.collect(store, 0, NOBODY)
    assert os.listdir(store.path("indexes")) == []
    assert layers(store) == ["a", "b"]


def test_store_of_before_has_no_place_for_indexes(store):
    os.rmdir(store.path("indexes"))
    a = stores.add_layer(store, "a")
    stores.grant(store, 1000, "1", [a])
    assert removed(store) == ["a"]


def test_dry_run_removes_nothing(store):
    a = stores.add_layer(store, "a")
    stores.grant(store, 1000, "1", [a])
    done = shared_gc.collect(store, EVERYTHING, NOBODY, dry=True)
    assert done.freed >= 8192
    assert layers(store) == ["a"]


def test_grant_that_the_disk_cannot_read_makes_no_garbage(store, monkeypatch):
    a = stores.add_layer(store, "a")
    stores.grant(store, 1000, "1", [a])
    real = os.open

    def failing(path, *args, **more):
        if "/grants/1000/" in str(path):
            raise OSError(5, "Input/output error", path)
        return real(path, *args, **more)

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(errors.StoreError, match="Input/output error"):
        shared_gc.collect(store, 0, NOBODY)
    monkeypatch.undo()
    assert layers(store) == ["a"]


def test_reclaim_counts_what_is_unused(store):
    a, b = (stores.add_layer(store, letter) for letter in "ab")
    stores.grant(store, 1000, "1", [a])
    stores.lease(store, 12, stores.grant(store, 1000, "2", [b]))
    side = shared_gc.reclaim(store, lambda: Living(frozenset({12}), NOBODY.asked))
    assert (side.used(), side.can_free()) == (16384, 8192)
    assert side.free(1) == 8192
    assert layers(store) == ["b"]


def test_leases_of_ended_jobs_go_once_there_are_many(store):
    manifest = stores.grant(store, 1000, "1", [stores.add_layer(store, "a")])
    for job in range(1, 301):
        stores.lease(store, job, manifest)
    now = time.time() + 1
    assert shared_gc.forget_leases(store, lambda: Living(None, now)) == 0, "Slurm does not answer"
    assert shared_gc.forget_leases(store, lambda: Living(frozenset(), 0.0)) == 0, "younger"
    assert shared_gc.forget_leases(store, lambda: Living(frozenset({7, 9}), now)) == 298
    assert len(os.listdir(store.path("leases"))) == 2
    assert shared_gc.forget_leases(store, lambda: pytest.fail("asked for two")) == 0


def injections(store):
    return sorted(n[0] for n in os.listdir(store.path("injections")) if n.endswith(".erofs"))


def test_injection_that_no_grant_names_goes_and_one_that_a_job_uses_stays(store):
    a = stores.add_layer(store, "a")
    used, idle, left = (stores.add_injection(store, letter) for letter in "def")
    manifest = stores.grant(store, 1000, "1", [a], injections=[used, idle])
    stores.lease(store, 5, manifest)
    done = shared_gc.collect(store, 0, Living(frozenset({5}), time.time() + 3600))
    assert [(item.kind, item.name) for item in done.removed] == [("injection", left)]
    assert injections(store) == ["d", "e"]
    assert not os.path.exists(site.injection_info_path(store, left))
    items = {item.name: item for item in shared_gc.inventory(store, NOBODY)}
    assert (items[used].kind, items[used].images, items[used].held) == (
        "injection",
        (manifest,),
        "",
    )


def test_injection_that_is_not_mounted_any_more_goes_before_what_is(store):
    """After an update of the host's MPI, the image's grants still name the one for the old."""
    a = stores.add_layer(store, "a")
    old, new = (
        stores.add_injection(store, "d", used=1500),
        stores.add_injection(store, "e", used=9000),
    )
    stores.grant(store, 1000, "1", [a], injections=[old, new], used=8000)
    done = shared_gc.collect(store, 1, NOBODY)
    assert [item.name for item in done.removed] == [old]
    assert injections(store) == ["e"]


def test_injection_being_made_is_nobody_s_garbage(store):
    stores.add_injection(store, "d")
    with turn.work(store):
        os.utime(site.injection_path(store, "d" * 64))
        assert shared_gc.collect(store, EVERYTHING, NOBODY).removed == ()
    os.unlink(site.injection_path(store, "d" * 64))
    done = shared_gc.collect(store, 0, NOBODY)
    assert [item.name for item in done.removed] == [f"injections/{'d' * 64}.json"]
