"""The node's shared store does its work: once for all, whatever breaks on the way, and right.

Who may have what is ``test_shared_access``; what a lying engine can do, ``test_shared_wire``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter

import psutil
import pytest
import zstandard
from faulty_registry import (
    cut,
    drop,
    header,
    html,
    other_body,
    short,
    stall,
    status,
    trickle,
    unlike_range,
)
from images import encoded, folder, hardlink, image, layer, symlink
from shared_bed import ALICE, BOB, ROOT, SERVICE, USERS, until


@pytest.fixture
def built():
    return image([layer({f"{n}": os.urandom(50_000)}) for n in range(4)])


@pytest.fixture
def name(shared, faulty, built):
    """An image at a registry that the site lists."""
    shared.trust(faulty.host)
    return faulty.add("x/y", "1", built)


ALL = {"0", "1", "2", "3"}


def host_state():
    """What root has mounted, which loop devices are in use."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = file.read()
    loops = subprocess.run(["losetup", "-nO", "BACK-FILE"], capture_output=True, text=True).stdout
    return mounts, "fairlead-shared" in loops


# -- once for all ----------------------------------------------------------------------------------


def test_layer_that_two_users_want_is_fetched_once_and_is_each_ones_own(
    shared, faulty, built, name
):
    for uid in (ALICE, BOB):
        answer = shared.run(uid, name)
        assert set(answer.found()) == ALL
        assert answer.owner == (uid, uid)
    assert [faulty.count("GET", digest) for digest in built.layer_digests] == [1] * 4
    assert shared.leftovers() == []


def test_real_registry_serves_two_users(shared, registry):
    from images import push

    built = image([layer({"a": b"1"}), layer({"b": os.urandom(1 << 20)})])
    push(registry, "shared/x", "1", built)
    shared.trust(registry)
    for uid in (ALICE, BOB):
        assert set(shared.run(uid, f"{registry}/shared/x:1").found()) == {"a", "b"}


def test_images_with_a_common_base_fetch_it_once(shared, faulty):
    shared.trust(faulty.host)
    base = layer({"base": os.urandom(10_000)})
    for tag, uid in (("1", ALICE), ("2", BOB)):
        other = image([base, layer({"own": tag.encode()})])
        found = shared.run(uid, faulty.add("x/y", tag, other)).found()
        assert found["own"] == tag
        assert "base" in found
    assert faulty.count("GET", base.digest) == 1


@pytest.mark.parametrize("count", [8, pytest.param(64, marks=pytest.mark.slow)])
def test_many_steps_of_four_users_fetch_each_layer_once(shared, faulty, built, name, count):
    shared.install(more="")  # with the real patience: this machine is busy now
    # Slow enough for all to come while the first still fetches.
    faulty.fault(built.layer_digests[0], trickle(20_000), method="GET", times=1)
    running = [shared.start(USERS[n % 4], name, job=n + 1, look="nothing") for n in range(count)]
    answers = [launch.answer(240) for launch in running]
    assert Counter((answer.layers, answer.error) for answer in answers) == {(1, None): count}
    assert [faulty.count("GET", digest) for digest in built.layer_digests] == [1] * 4
    assert shared.leftovers() == []


def test_nothing_is_left_on_the_host(shared, faulty, built, name):
    before = host_state()
    launch = shared.start(ALICE, name)
    keeper = launch.keeper()
    launch.answer()
    assert host_state() == before
    assert not keeper.is_running()
    assert not [p for p in psutil.process_iter(["uids"]) if p.info["uids"].real == SERVICE]
    zombies = [p for p in psutil.Process().children() if p.status() == psutil.STATUS_ZOMBIE]
    assert zombies == []


def test_image_is_the_users_to_change_inside_and_stays_as_it_is(shared, faulty, name):
    script = (
        "os.stat('0').st_uid == os.getuid() or 1 / 0\n"
        "open('0', 'w').write('mine'); os.unlink('1'); os.mkdir('new'); os.chmod('2', 0o600)\n"
        "seen = open('0').read() + ' ' + ' '.join(sorted(set(os.listdir('/')) & set('0123')))"
    )
    answer = shared.run(ALICE, name, look="container", script=script)
    assert answer.found() == {}
    assert answer.seen == "mine 0 2 3"
    assert set(shared.run(BOB, name).found()) == ALL


# -- registries that fail --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "part", "fault", "times"),
    [
        ("GET", "blob", cut(0.0), 1),
        ("GET", "blob", cut(0.5), 3),
        ("GET", "blob", cut(0.99), 1),
        ("GET", "blob", drop(), 3),
        ("GET", "blob", stall(1000), 1),
        ("GET", "blob", status(429, Retry_After="1"), 1),
        ("GET", "blob", status(503), 2),
        ("GET", "/manifests/", status(500), 2),
        ("GET", "/manifests/", drop(), 2),
        ("GET", "blob", header("Content-Range", "bytes 5-6/7"), 1),
    ],
)
def test_passing_trouble_of_a_registry_is_overcome(
    shared, faulty, built, name, method, part, fault, times
):
    digest = built.layer_digests[1] if part == "blob" else part
    faulty.fault(digest, fault, method=method, times=times)
    found = shared.run(ALICE, name).found()
    assert set(found) == ALL


def test_reset_is_resumed_where_it_was(shared, faulty, built, name):
    digest = built.layer_digests[1]
    faulty.fault(digest, cut(0.5), method="GET", times=1)
    assert set(shared.run(ALICE, name).found()) == ALL
    asked = [r for r in faulty.requests if r.method == "GET" and digest in r.path]
    assert [r.headers.get("range", "").partition("=")[0] for r in asked] == ["", "bytes"]


def test_whole_blob_in_place_of_its_rest_is_read_past(shared, faulty, built, name):
    digest = built.layer_digests[1]
    faulty.fault(digest, cut(0.5), method="GET", times=1)
    faulty.fault(digest, unlike_range(built.blobs[digest]), method="GET", times=1, skip=1)
    assert set(shared.run(ALICE, name).found()) == ALL


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (short(1000), "digest"),
        (lambda a: a._replace(body=a.body[:-1] + b"!"), "digest"),
        (other_body(b"other"), "digest"),
        (html(), "digest"),
        (header("Content-Encoding", "gzip"), "registry"),
        (cut(1000), "registry-unreachable"),
        (status(404), "registry"),
        (status(403), "auth"),
        (status(500), "registry-unreachable"),
    ],
)
def test_lasting_trouble_is_one_error_and_nothing_is_published(
    shared, faulty, built, name, fault, code
):
    digest = built.layer_digests[2]
    faulty.fault(digest, fault, method="GET")
    answer = shared.run(ALICE, name)
    assert answer.error is not None
    assert answer.error[0] == code
    bad = json.loads(built.blobs[built.config_digest])["rootfs"]["diff_ids"][2]
    assert bad.partition(":")[2] not in shared.layers()
    assert shared.grants(ALICE) == []
    assert shared.leftovers() == []
    faulty.heal()
    assert set(shared.run(ALICE, name).found()) == ALL


def test_wrong_diff_id_is_refused_and_nothing_is_published(shared, faulty):
    bad = layer({"a": b"1"})._replace(diff_id="sha256:" + "0" * 64)
    shared.trust(faulty.host)
    answer = shared.run(ALICE, faulty.add("x/y", "1", image([bad])))
    assert answer.error is not None
    assert answer.error[0] == "digest"
    assert "its DiffID differs" in answer.error[1]
    assert shared.layers() == []
    assert shared.leftovers() == []


def test_one_users_broken_image_is_no_other_users_error(shared, faulty, built, name):
    """Both name the same layer; one of them with a size that is not the blob's."""
    table = json.loads(built.manifest)
    table["layers"][1]["size"] -= 1
    wrong = built._replace(manifest=encoded(table))
    faulty.add("x/z", "1", wrong)
    faulty.fault(built.layer_digests[1], trickle(20_000), method="GET", times=2)
    hostile = shared.start(BOB, f"{faulty.host}/x/z:1")
    until(lambda: faulty.count("GET", built.layer_digests[1]))
    assert set(shared.run(ALICE, name).found()) == ALL
    answer = hostile.answer()
    assert answer.error is not None
    assert answer.error[0] == "digest"


# -- damage on disk --------------------------------------------------------------------------------


def flip(path):
    """A bit of the superblock's checksum."""
    with path.open("r+b") as file:
        file.seek(1024 + 4)
        byte = file.read(1)[0]
        file.seek(1024 + 4)
        file.write(bytes([byte ^ 1]))


def cut_short(path):
    os.truncate(path, path.stat().st_size // 2)


def cut_at_the_end(path):
    """Less than a block of a file's data: the kernel mounts it."""
    os.truncate(path, path.stat().st_size - 1)


def grown(path):
    with path.open("ab") as file:
        file.write(b"x")


def emptied(path):
    os.truncate(path, 0)


def nonsense(path):
    path.with_suffix(".json").write_text("{nonsense")
    emptied(path)


def undescribed(path):
    path.with_suffix(".json").unlink()
    emptied(path)


def gone(path):
    path.unlink()


def test_flipped_bit_that_no_reader_meets_stops_nobody(shared, faulty, built, name):
    """An index leads past the layer's own superblock; ``store check`` finds the bit."""
    shared.run(ALICE, name)
    diff_id = json.loads(built.blobs[built.config_digest])["rootfs"]["diff_ids"][1]
    path = shared.root / f"layers/{diff_id.partition(':')[2]}.erofs"
    path.chmod(0o600)
    flip(path)
    path.chmod(0o400)
    answer = shared.run(ALICE, name)
    assert (answer.layers, set(answer.found())) == (1, ALL)
    assert faulty.count("GET", built.layer_digests[1]) == 1


@pytest.mark.parametrize(
    "damage", [flip, cut_short, cut_at_the_end, grown, emptied, nonsense, undescribed, gone]
)
def test_damaged_image_is_fetched_again_once_without_a_word_from_the_user(
    shared, faulty, built, name, damage
):
    shared.run(ALICE, name)
    diff_id = json.loads(built.blobs[built.config_digest])["rootfs"]["diff_ids"][1]
    path = shared.root / f"layers/{diff_id.partition(':')[2]}.erofs"
    path.chmod(0o600)
    damage(path)
    if path.exists():
        path.chmod(0o400)
    if damage is flip:  # what is left is the way without an index
        next(shared.root.glob("indexes/*.erofs")).unlink()
    found = shared.run(ALICE, name).found()
    assert set(found) == ALL
    assert [faulty.count("GET", digest) for digest in built.layer_digests] == [1, 2, 1, 1]
    assert set(shared.run(BOB, name).found()) == ALL
    assert [faulty.count("GET", digest) for digest in built.layer_digests] == [1, 2, 1, 1]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"layer": 1}'])
def test_damaged_description_is_made_anew_with_its_layer(shared, faulty, built, name, text):
    shared.run(ALICE, name)
    diff_id = json.loads(built.blobs[built.config_digest])["rootfs"]["diff_ids"][1]
    (shared.root / f"layers/{diff_id.partition(':')[2]}.json").write_text(text)
    assert set(shared.run(BOB, name).found()) == ALL
    assert faulty.count("GET", built.layer_digests[1]) == 2


# -- a store that is none --------------------------------------------------------------------------


def test_store_that_is_not_there_leaves_the_user_to_their_own(shared, name):
    shutil.rmtree(shared.root)
    answer = shared.run(ALICE, name)
    assert str(shared.root) in answer.unusable
    assert "No such file" in answer.unusable


@pytest.mark.parametrize(("uid", "mode"), [(0, 0o700), (SERVICE, 0o750), (SERVICE, 0o777)])
def test_store_of_a_wrong_owner_or_mode_leaves_the_user_to_their_own(shared, name, uid, mode):
    os.chown(shared.root, uid, uid)
    shared.root.chmod(mode)
    answer = shared.run(ALICE, name)
    assert "must belong to the service account with mode 0700" in answer.unusable


@contextlib.contextmanager
def mounted(shared, *words, place=""):
    subprocess.run(["mount", *words, str(shared.root / place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(shared.root / place)], check=True)


def test_full_disk_is_one_error_that_names_it(shared, faulty):
    shared.trust(faulty.host)
    small = image([layer({"a": bytes(8 << 20)})])  # the forecast lets it through
    with mounted(shared, "-t", "tmpfs", "-o", f"size=2m,mode=0700,uid={SERVICE}", "none"):
        answer = shared.run(ALICE, faulty.add("x/y", "1", small))
        assert answer.error is not None
        assert answer.error[0] == "no-space"
        assert str(shared.root) in answer.error[1]
        assert shared.leftovers() == []
        assert shared.layers() == []


READ_BIG = """
data = b""
fd = os.open("/big", os.O_RDONLY)
try:
    while piece := os.read(fd, 1 << 16):
        data += piece
    seen = f"whole {len(data)}"
except OSError as error:
    seen = f"{error.strerror} after {len(data)}"
"""


def test_image_that_the_disk_cannot_read_is_found_and_fetched_again(shared, faulty):
    """A loop device whose file ends in the middle of a layer's image: the kernel gives EIO there."""
    shared.trust(faulty.host)
    name = faulty.add("x/y", "1", image([layer({"big": os.urandom(8 << 20)})]))
    disk = shared.place / "disk"
    disk.touch()
    os.truncate(disk, 64 << 20)
    subprocess.run(
        ["mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=0", disk], check=True
    )
    with mounted(shared, "-o", "loop", str(disk)):
        os.chown(shared.root, SERVICE, SERVICE)
        shared.root.chmod(0o700)
        words = {"look": "container", "script": READ_BIG}
        first = shared.run(ALICE, name, **words)
        assert first.seen == f"whole {8 << 20}", first
        (path,) = shared.root.glob("layers/*.erofs")
        shown = subprocess.run(["filefrag", "-v", path], check=True, capture_output=True, text=True)
        ends = [int(found[1]) for found in re.finditer(r"\.\. *(\d+): +\d+:", shown.stdout)]
        block = os.statvfs(shared.root).f_bsize
        assert ends
        # While it is mounted: nobody would mount it afterwards.
        os.sync()
        os.truncate(disk, (max(ends) - 100) * block)
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        environ = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "engine"),
            "FAIRLEAD_SITE_STORE": str(shared.root),
        }
        command = [sys.executable, "-m", "fairlead.cli.main", "store", "check"]
        done = subprocess.run(command, env=environ, capture_output=True, text=True)
        assert done.returncode == 1, done.stderr
        assert f"damaged: {path}: its content is not what was written" in done.stdout
        # Its description is at its end: it cannot be mounted, and is fetched again.
        answer = shared.run(ALICE, name, **words)
        assert answer.seen == f"whole {8 << 20}", answer
        assert "was damaged on disk and is fetched again" in answer.said


def test_layer_that_unpacks_to_more_than_its_forecast_leaves_the_disk_room(shared, faulty):
    shared.trust(faulty.host, settings='store_min_free = "40M"\n')
    bomb = image([layer({"a": bytes(60 << 20)})])
    with mounted(shared, "-t", "tmpfs", "-o", f"size=80m,mode=0700,uid={SERVICE}", "none"):
        launch = shared.start(ALICE, faulty.add("x/y", "1", bomb))
        least = 80 << 20
        while launch.engine.poll() is None:
            disk = os.statvfs(shared.root)
            least = min(least, disk.f_bavail * disk.f_frsize)
        answer = launch.answer()
        assert answer.error is not None
        assert answer.error[0] == "no-space"
        assert "must stay free" in answer.error[1]
        assert least > 30 << 20
        assert shared.leftovers() == []


def test_image_that_cannot_fit_is_refused_before_its_first_byte(shared, faulty):
    shared.trust(faulty.host)
    big = image([layer({"a": os.urandom(8 << 20)}, "none")])
    with mounted(shared, "-t", "tmpfs", "-o", f"size=2m,mode=0700,uid={SERVICE}", "none"):
        answer = shared.run(ALICE, faulty.add("x/y", "1", big))
        assert answer.error is not None
        assert answer.error[0] == "no-space"
        assert faulty.count("GET", big.layer_digests[0]) == 0


def test_read_only_disk_is_one_error_that_names_it_and_what_is_granted_still_runs(
    shared, faulty, built, name
):
    shared.run(ALICE, name)
    subprocess.run(["mount", "--bind", str(shared.root), str(shared.root)], check=True)
    with mounted(shared, "-o", "remount,bind,ro"):
        assert set(shared.run(ALICE, name).found()) == ALL
        answer = shared.run(BOB, name)
    assert answer.error is not None
    assert answer.error[0] in {"store", "no-space"}
    assert "Read-only file system" in answer.error[1]
    assert str(shared.root) in answer.error[1]


def test_missing_or_broken_storekeeper_is_one_error(shared, name):
    script = shared.prefix / "libexec/fairlead/keeper.py"
    for text in (None, "raise SystemExit(1)", "import os; os.kill(os.getpid(), 11)"):
        script.unlink()
        if text is not None:
            script.write_text(text)
        answer = shared.run(ALICE, name)
        assert answer.error == ("store", "the storekeeper ended without an answer"), text
        script.touch()


# -- what images may be ----------------------------------------------------------------------------


def test_image_of_a_hundred_and_twenty_layers(shared, faulty):
    layers = [layer({f"d/{n:03}": str(n).encode(), "top": str(n).encode()}) for n in range(120)]
    shared.trust(faulty.host)
    answer = shared.run(ALICE, faulty.add("x/y", "1", image(layers)))
    assert answer.layers == 1, "by their index"
    found = answer.found()
    assert len(found) == 121
    assert found["top"] == "119"
    assert shared.leftovers() == []


def indexes(shared):
    return sorted(shared.root.glob("indexes/*.erofs"))


@pytest.mark.parametrize("damage", [cut_short, emptied, gone, flip])
def test_without_a_whole_index_the_layers_are_mounted_one_by_one(
    shared, faulty, built, name, damage
):
    assert shared.run(ALICE, name).layers == 1
    (path,) = indexes(shared)
    whole = path.read_bytes()
    path.chmod(0o600)
    damage(path)
    answer = shared.run(ALICE, name)
    assert (answer.layers, set(answer.found())) == (4, ALL)
    assert [faulty.count("GET", digest) for digest in built.layer_digests] == [1, 1, 1, 1]
    path.unlink(missing_ok=True)
    answer = shared.run(BOB, name)  # a grant of one's own, and with it the index anew
    assert (answer.layers, set(answer.found())) == (1, ALL)
    assert path.read_bytes() == whole


def test_one_layer_is_its_own_index_unless_it_has_whiteouts(shared, faulty):
    shared.trust(faulty.host)
    plain = layer({"d/": folder(), "d/f": b"f"})
    answer = shared.run(ALICE, faulty.add("x/y", "1", image([plain])))
    assert (answer.layers, answer.found()) == (1, {"d/f": "f"})
    assert indexes(shared) == []
    marked = layer({"d/": folder(), "d/f": b"f", "d/.wh.g": b""})
    answer = shared.run(ALICE, faulty.add("x/y", "2", image([marked])), look="loosened")
    assert sorted(line.split()[0] for line in answer.seen.splitlines()[1:]) == ["./d", "./d/f"]
    assert len(indexes(shared)) == 1


def test_store_that_cannot_hold_an_index_does_without(shared, name):
    shared.run(ALICE, name)
    (path,) = indexes(shared)
    path.unlink()
    with mounted(shared, "-t", "tmpfs", "-o", "ro,mode=0755", "none", place="indexes"):
        answer = shared.run(BOB, name)
        assert (answer.layers, set(answer.found())) == (4, ALL)
    assert shared.leftovers() == []


def test_layers_that_depend_on_lower_ones_come_out_right_in_every_stack(shared, faulty):
    """They list no parent directories, or link to lower files: not the same image everywhere."""
    above = layer({"d/e/new": b"new", "linked": hardlink("d/e/low")})
    first = layer({"d/": folder(0o711), "d/e/": folder(), "d/e/low": b"first"})
    second = layer(
        {"real/": folder(), "real/low": b"second", "d/": folder(), "d/e": symlink("/real")}
    )
    shared.trust(faulty.host)
    for tag, uid, lower, text, place in (
        ("1", ALICE, first, "first", "d/e/new"),
        ("2", BOB, second, "second", "real/new"),
    ):
        found = shared.run(uid, faulty.add("x/y", tag, image([lower, above]))).found()
        assert found["linked"] == text
        assert found[place] == "new"
    assert len(shared.layers()) == 4


def test_stacks_of_the_same_layers_in_opposite_order_do_not_wait_for_each_other(shared, faulty):
    """Each depends on what is below it."""
    one = layer({"d/x/1": b"1", "d/x/both": b"one"})
    two = layer({"d/x/2": b"2", "d/x/both": b"two"})
    shared.trust(faulty.host)
    for digest in (one.digest, two.digest):
        faulty.fault(digest, stall(20), method="GET", times=2)  # both are under way at once
    names = [
        faulty.add("x/y", "1", image([one, two])),
        faulty.add("x/y", "2", image([two, one])),
    ]
    running = [shared.start(uid, name) for uid, name in zip((ALICE, BOB), names, strict=True)]
    found = [launch.answer(30).found() for launch in running]
    assert [table["d/x/both"] for table in found] == ["two", "one"]


@pytest.mark.parametrize("files", [{"a": b"1"}, {"d/x/1": b"1"}], ids=["alone", "dependent"])
def test_same_layer_twice_in_one_image(shared, faulty, files):
    twice = layer({**files, "d/both": b"twice"})
    between = layer({"d/": folder(), "d/both": b"between", "d/x/": folder()})
    shared.trust(faulty.host)
    built = image([twice, between, twice])
    found = shared.run(ALICE, faulty.add("x/y", "1", built)).found()
    assert found["d/both"] == "twice"
    assert next(iter(files)) in found
    assert set(shared.run(BOB, f"{faulty.host}/x/y:1").found()) == set(found)


MEMORY = """
import atexit
def peak():
    with open("/proc/self/status") as status, open({log!r}, "w") as log:
        log.write(status.read())
atexit.register(peak)
"""


def wide(number):
    """A layer whose zstd frame asks for a window of 128 MiB, and fills it."""
    plain = layer({f"{number}": os.urandom(1 << 20) * 140}, "none")
    sizes = zstandard.ZstdCompressionParameters.from_level(3, window_log=27, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=sizes).compressobj()
    data = packer.compress(plain.data) + packer.flush()
    return plain._replace(data=data, media_type=f"{plain.media_type}+zstd")


@pytest.mark.parametrize(("kind", "most_mib"), [("large", 64), ("many", 64), ("wide", 64 + 160)])
def test_storekeepers_memory_does_not_depend_on_the_image(shared, faulty, kind, most_mib):
    """A window of 128 MiB is a layer's right, but four layers' windows are not had at once."""
    if kind == "wide":
        layers = [wide(number) for number in range(4)]
    elif kind == "large":
        noise = os.urandom(1 << 20)
        layers = [layer({f"{n}": noise * 75}, "gzip", 1) for n in range(4)]
    else:
        names = [layer({f"{k}{n // 500}/{n}": b"" for n in range(100_000)}) for k in "ab"]
        layers = [layer({f"{n // 500}/{n}": b"" for n in range(200_000)}), *names]
    log = shared.place / "status"
    log.touch()
    log.chmod(0o666)
    shared.install(more=MEMORY.format(log=str(log)))
    shared.trust(faulty.host)
    answer = shared.start(ALICE, faulty.add("x/y", "1", image(layers)), look="nothing").answer(300)
    assert answer.error is None, answer
    peak = next(line for line in log.read_text().splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) <= most_mib << 10, log.read_text()
