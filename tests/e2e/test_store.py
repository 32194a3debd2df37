"""``fairlead store`` as its users see it, on a user's own store and, as root, on the site's."""

from __future__ import annotations

import calendar
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from images import image, layer

from fairlead import errors
from fairlead.store import blobs, layers

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
import stores

BASE = {"bin/true": b"#!"}
NOBODY = 65534


def some_image(megabytes=1, compression="none"):
    return image([layer({"data": os.urandom(megabytes << 20)}, compression)])


def table(bench, *words, **variables):
    done = bench.run("store", *words, "--json", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


# -- a user's store --------------------------------------------------------------------------------


def test_ls_shows_size_last_use_and_images(bench, faulty):
    name = faulty.add("x/y", "1", some_image())
    found = bench.pull(name)
    entries = table(bench, "ls")
    assert [(e["kind"], e["name"], e["images"]) for e in entries] == [
        ("tree", found.chain, [f"{name}"])
    ]
    assert 1 << 20 <= entries[0]["size_bytes"] < 2 << 20
    used = calendar.timegm(time.strptime(entries[0]["last_use"], "%Y-%m-%dT%H:%M:%SZ"))
    assert abs(time.time() - used) < 60
    text = bench.run("store", "ls").stdout
    assert text.splitlines()[0].split() == [
        "KIND",
        "NAME",
        "SIZE",
        "LAST",
        "USE",
        "IN",
        "USE",
        "BY",
        "IMAGES",
    ]
    assert name in text


def test_df_tells_where_and_how_much(bench, faulty):
    bench.pull(faulty.add("x/y", "1", some_image()))
    shown = table(bench, "df", FAIRLEAD_STORE_QUOTA="10G")
    assert (shown["path"], shown["kind"], shown["quota_bytes"]) == (
        str(bench.root),
        "user",
        10 << 30,
    )
    assert 0 < shown["gc_can_free_bytes"] == shown["used_bytes"] < shown["total_bytes"]
    assert "gc can free  1.1 MB" in bench.run("store", "df").stdout


def test_check_is_silent_and_0_on_a_good_store(bench, faulty):
    bench.pull(faulty.add("x/y", "1", some_image()))
    done = bench.run("store", "check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_check_finds_repairs_and_the_next_pull_fetches_once(bench, faulty):
    built = some_image()
    name = faulty.add("x/y", "1", built)
    found = bench.pull(name)
    os.truncate(Path(found.rootfs) / "data", 5)
    done = bench.run("store", "check")
    assert done.returncode == 1
    assert done.stdout == (
        f"damaged: {Path(found.rootfs).parent}: its files are not those that were unpacked "
        "(names, sizes, modes or times)\n"
    )
    done = bench.run("store", "check", "--repair")
    assert done.returncode == 1
    assert f"(moved to {bench.root}/quarantine/trees." in done.stdout
    assert bench.run("store", "check").returncode == 0
    before = faulty.count("GET", built.layer_digests[0])
    for _ in range(2):
        again = bench.pull(name)
        assert os.path.getsize(f"{again.rootfs}/data") == 1 << 20
    assert faulty.count("GET", built.layer_digests[0]) == before + 1


def test_tree_whose_description_is_lost_is_made_anew_without_a_repair(bench, faulty):
    name = faulty.add("x/y", "1", image([layer(BASE)]))
    found = bench.pull(name)
    os.unlink(f"{layers.path(bench.store, found.chain)}/tree.json")
    os.unlink(next((bench.root / "images").iterdir()))  # else nobody looks at it
    bench.pull(name)
    assert bench.run("store", "check").returncode == 0
    assert len(os.listdir(bench.root / "quarantine")) == 1


def test_gc_keeps_to_a_size_and_spares_what_is_in_use(bench, faulty):
    names = [faulty.add("x/y", str(number), some_image()) for number in range(3)]
    found = [bench.pull(name) for name in names]
    for number, one in enumerate(found):
        os.utime(layers.path(bench.store, one.chain), (1000 + number, 1000 + number))
    fd = layers.hold(bench.store, found[0].chain)
    os.utime(fd, (1000, 1000))
    try:
        done = table(bench, "gc", "--max-size", "2500K")
    finally:
        os.close(fd)
    assert [item["images"] for item in done["removed"]] == [[names[1]]]
    assert [item["in_use_by"] for item in done["spared"]] == ["a launch"]
    assert [i.reference for i in map(bench.pull, names)] == names


def test_gc_all_and_dry_run(bench, faulty):
    name = faulty.add("x/y", "1", some_image())
    bench.pull(name)
    dry = bench.run("store", "gc", "--all", "--dry-run")
    assert dry.stdout.splitlines()[-1] == "would free 1.1 MB"
    wet = bench.run("store", "gc", "--all")
    assert wet.stdout == dry.stdout.replace("would free", "freed")
    assert table(bench, "ls") == []
    assert os.listdir(bench.root / "images") == []


def test_gc_without_options_keeps_the_quota(bench, faulty):
    for tag in "12":
        bench.pull(faulty.add("x/y", tag, some_image()))
    assert table(bench, "gc")["removed"] == []
    assert len(table(bench, "gc", FAIRLEAD_STORE_QUOTA="1500K")["removed"]) == 1


@pytest.mark.parametrize("size", ["", "much", "120%", "-1", "1.5G"])
def test_size_that_is_none_is_refused(bench, size):
    assert "is no size like 20G" in bench.line("store", "gc", f"--max-size={size}")


def test_unknown_action_is_one_line(bench):
    assert "error [usage]" in bench.line("store", "tidy")


def test_mounted_tree_is_spared_by_name_of_its_process(bench, faulty):
    found = bench.pull(faulty.add("x/y", "1", image([layer(BASE)])))
    script = f"mount --bind {found.rootfs} /mnt && echo ready && read line"
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe) as process:
        if process.stdout.readline() != b"ready\n":
            pytest.skip("this machine lets no user mount")
        try:
            done = table(bench, "gc", "--all")
        finally:
            process.communicate(b"\n")
    assert (done["removed"], done["spared"][0]["in_use_by"]) == ([], f"process {process.pid}")


def test_store_is_looked_at_without_home_in_a_deleted_directory_on_a_read_only_disk(
    bench, faulty, tmp_path
):
    bench.pull(faulty.add("x/y", "1", image([layer(BASE)])))
    (bench.root / "locks/of.the.dead").touch()
    (tmp_path / "gone").mkdir()
    script = (
        f"mount --bind {bench.root} {bench.root} && mount -o remount,bind,ro {bench.root} || exit 77\n"
        f"cd {tmp_path}/gone && rmdir {tmp_path}/gone\n"
        'for action in ls df check; do "$@" $action || exit; done'
    )
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    environ = {key: value for key, value in bench.full().items() if key != "HOME"}
    done = subprocess.run(
        [*words, *bench.command("store")], env=environ, capture_output=True, text=True
    )
    if done.returncode == 77:
        pytest.skip("this machine lets no user mount")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.endswith(f"leftover: {bench.root}/locks/of.the.dead: its process is dead\n")


# -- settings --------------------------------------------------------------------------------------


def test_quota_lets_the_least_recently_used_make_room(bench, faulty):
    bench.environ["FAIRLEAD_STORE_QUOTA"] = "3500K"
    old, new = (faulty.add("x/y", tag, some_image()) for tag in "12")
    os.utime(layers.path(bench.store, bench.pull(old).chain), (1000, 1000))
    bench.pull(new)
    third = faulty.add("x/y", "3", some_image())
    bench.pull(third)
    assert {ref for e in table(bench, "ls") for ref in e["images"]} == {new, third}


def test_image_above_the_quota_is_refused_before_the_first_byte(bench, faulty):
    bench.environ["FAIRLEAD_STORE_QUOTA"] = "1M"
    first = bench.pull(faulty.add("x/y", "1", image([layer(BASE)])))
    built = some_image(2)
    name = faulty.add("x/y", "2", built)
    started = time.monotonic()
    with pytest.raises(
        errors.SpaceError, match=r"needs 4\.2 MB or more, .* free under store_quota"
    ):
        bench.pull(name)
    assert time.monotonic() - started < 1
    assert faulty.count("GET", built.layer_digests[0]) == 0
    # Nothing was removed in vain.
    assert [e["images"] for e in table(bench, "ls") if e["kind"] == "tree"] == [[first.reference]]


def test_layers_are_kept_by_setting_and_serve_another_image(bench, faulty):
    bench.environ["FAIRLEAD_KEEP_BLOBS"] = "true"
    shared = layer({"a": os.urandom(1000)})
    bench.pull(faulty.add("x/y", "1", image([shared])))
    assert os.path.exists(blobs.path(bench.store, shared.digest))
    bench.pull(faulty.add("x/y", "2", image([shared, layer(BASE)])))
    assert faulty.count("GET", shared.digest) == 1
    assert bench.run("store", "check").returncode == 0


def test_shared_blobs_come_before_the_registry(bench, faulty, tmp_path, capfd):
    one, two = layer({"a": b"1"}), layer({"b": b"2"})
    built = image([one, two])
    folder = tmp_path / "lustre/blobs/sha256"
    folder.mkdir(parents=True)
    (folder / one.digest[7:]).write_bytes(one.data)
    (folder / two.digest[7:]).write_bytes(two.data[:-1] + b"?")
    bench.environ["FAIRLEAD_SHARED_BLOBS"] = str(tmp_path / "lustre")
    found = bench.pull(faulty.add("x/y", "1", built))
    assert sorted(os.listdir(found.rootfs)) == ["a", "b"]
    assert faulty.count("GET", one.digest) == 0
    assert faulty.count("GET", two.digest) == 1
    assert "fetching from the registry" in capfd.readouterr().err
    assert bench.leftovers() == []


# -- the site store --------------------------------------------------------------------------------


@pytest.fixture
def site_store(bench, tmp_path):
    if os.getuid() != 0:
        pytest.skip("only root acts on the site store")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        if (
            not folder.stat().st_mode & 0o001
        ):  # a /tmp, with --basetemp, is open and has its sticky bit
            folder.chmod(0o755)
    store = stores.new_site(tmp_path / "site")
    bench.environ["FAIRLEAD_SITE_STORE"] = store.root
    bench.environ["PATH"] = str(tmp_path / "bin")
    (tmp_path / "bin").mkdir()
    return store


def give_away(store):
    for folder, _, files in os.walk(store.root):
        for path in (folder, *(f"{folder}/{name}" for name in files)):
            os.lchown(path, NOBODY, NOBODY)


def slurm_says(tmp_path, text, status=0):
    program = tmp_path / "bin/squeue"
    program.write_text(f"#!/bin/sh\nprintf '{text}'\nexit {status}\n")
    program.chmod(0o755)


def test_root_acts_on_the_site_store_as_its_owner(bench, site_store, tmp_path):
    slurm_says(tmp_path, "12\\n")
    a, b = (stores.add_layer(site_store, letter) for letter in "ab")
    stores.lease(site_store, 12, stores.grant(site_store, 1000, "1", [a]))
    stores.lease(site_store, 11, stores.grant(site_store, 1000, "2", [b]))
    soon = time.time() - 100
    for name in os.listdir(site_store.path("leases")):
        os.utime(site_store.path("leases", name), (soon, soon))
    give_away(site_store)
    assert table(bench, "df")["kind"] == "site"
    assert bench.run("store", "check").returncode == 0
    done = table(bench, "gc", "--all")
    assert {item["name"] for item in done["removed"] if item["kind"] == "layer"} == {b}
    assert [item["in_use_by"] for item in done["spared"]] == ["job 12"]
    assert os.listdir(site_store.path("leases")) == [f"12.{'1' * 64}"]
    # What it wrote is the account's, not root's.
    os.mkdir(site_store.path("tmp", "x"))
    with open(site_store.path("layers", "x"), "wb"):
        pass
    give_away(site_store)
    assert bench.run("store", "check", "--repair").returncode == 1
    assert os.stat(site_store.path("quarantine", "layers.x.0")).st_uid == NOBODY


def test_without_slurm_leases_hold_and_a_line_says_so(bench, site_store, tmp_path):
    slurm_says(tmp_path, "slurm_load_jobs error", 1)
    a = stores.add_layer(site_store, "a")
    stores.lease(site_store, 12, stores.grant(site_store, 1000, "1", [a]))
    give_away(site_store)
    done = bench.run("store", "gc", "--all")
    assert "Slurm does not say which jobs live" in done.stderr
    assert os.path.exists(site_store.path("layers", f"{a}.erofs"))


def test_site_store_that_nobody_used_yet_is_empty(bench, tmp_path):
    if os.getuid() != 0:
        pytest.skip("only root acts on the site store")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        if (
            not folder.stat().st_mode & 0o001
        ):  # a /tmp, with --basetemp, is open and has its sticky bit
            folder.chmod(0o755)
    (tmp_path / "site").mkdir(mode=0o700)
    os.chown(tmp_path / "site", NOBODY, NOBODY)
    bench.environ["FAIRLEAD_SITE_STORE"] = str(tmp_path / "site")
    done = bench.run("store", "ls", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def test_root_may_mean_its_own_store(bench, site_store):
    give_away(site_store)
    assert table(bench, "df", "--own")["path"] == str(bench.root)


def test_site_store_of_root_or_open_to_others_is_refused(bench, site_store, tmp_path):
    slurm_says(tmp_path, "")
    assert "belongs to root" in bench.line("store", "df")
    give_away(site_store)
    os.chmod(site_store.root, 0o755)
    assert "is not a directory of mode 0700" in bench.line("store", "df")


def test_damage_in_the_site_store_is_found_and_taken_out_of_use(bench, site_store, tmp_path):
    slurm_says(tmp_path, "")
    a = stores.add_layer(site_store, "a")
    stores.grant(site_store, 1000, "1", [a])
    with open(site_store.path("layers", f"{a}.erofs"), "r+b") as file:
        file.write(b"b")
    give_away(site_store)
    done = bench.run("store", "check", "--repair")
    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [
        "damaged",
        "points-nowhere",
    ]
    assert bench.run("store", "check").returncode == 0
    assert os.listdir(site_store.path("grants", "1000")) == []
