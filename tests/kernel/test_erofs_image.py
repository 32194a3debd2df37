"""One image: what the kernel and erofs-utils make of every kind and size of thing in it."""

import errno
import hashlib
import os
import stat
import subprocess

import image_worker
import layer_box
import pytest
import tarmaker as tar
from sandbox import CLONE_NEWNS, MS_PRIVATE, MS_REC, checked
from tarmaker import directory, file, hardlink, symlink

from fairlead import errors, sinks

TAIL = 1984  # the largest that stands behind its inode


@pytest.fixture(scope="module")
def box():
    with layer_box.image_box() as worker:
        yield worker


@pytest.fixture
def place(tmp_path_factory):
    """A directory on a disk file system: the kernel mounts no image that lies on a tmpfs."""
    return tmp_path_factory.mktemp("erofs")


def write(place, pieces, name="image"):
    """Convert a layer that comes in pieces; returns path, statistics and facts."""
    path = str(place / name)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    scratch = os.open(place, os.O_RDWR | os.O_TMPFILE)
    try:
        with sinks.LayerImage(fd, scratch) as image:
            image.begin_layer()
            for piece in pieces:
                image.feed(piece)
            if image.needs_lower:
                image.set_lower(())
            return path, image.end_layer(), image.facts()
    finally:
        os.close(fd)
        os.close(scratch)


def through_mount(path, look, devices=()):
    """Mount the image in a mount namespace of a child's own; returns what look(directory) says there."""
    if os.getuid() != 0:
        pytest.skip("needs root to mount")

    def work():
        checked(image_worker._libc.unshare(CLONE_NEWNS))
        checked(image_worker._libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
        image_worker.move_mount(image_worker.mounted(path, devices), "/mnt")
        return look("/mnt")

    return image_worker.in_a_child(work)


def indexed(place, fds):
    """Write the index of images; returns its path."""
    path = str(place / f"index-{len(os.listdir(place))}")
    fd, scratch = (
        os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL),
        os.open(place, os.O_RDWR | os.O_TMPFILE),
    )
    try:
        sinks.write_index(fd, scratch, fds)
    finally:
        os.close(fd)
        os.close(scratch)
    return path


@pytest.mark.parametrize("damage", ["no image", "cut", "an index", "none"])
def test_an_index_of_what_is_no_layer_is_refused(place, damage):
    path, _, _ = write(place, [tar.archive(directory(b"d"), file(b"d/f", b"F" * 5000))])
    fds = [os.open(path, os.O_RDWR)]
    if damage == "no image":
        os.pwrite(fds[0], bytes(4096), 0)
    elif damage == "cut":
        os.truncate(path, os.stat(path).st_size - 4096)
    elif damage == "an index":
        fds.append(os.open(indexed(place, fds), os.O_RDONLY))
    with pytest.raises(OSError) as caught:
        indexed(place, fds if damage != "none" else [])
    assert caught.value.errno == (errno.E2BIG if damage == "none" else errno.EBADMSG)
    for fd in fds:
        os.close(fd)


def test_an_index_of_a_directory_that_leads_back_to_itself_is_refused(place):
    """The name b of a/b is made to stand for a."""
    path, _, _ = write(place, [tar.archive(directory(b"aa"), directory(b"aa/bb"))])
    with open(path, "r+b") as image:
        data = bytearray(image.read())
        ours, parent = (entry_of(data, name) for name in (b"bb", b"aa"))
        data[ours : ours + 8] = data[parent : parent + 8]
        image.seek(0)
        image.write(data)
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(OSError) as caught:
        indexed(place, [fd])
    assert caught.value.errno == errno.EBADMSG
    os.close(fd)


def entry_of(data, name):
    """Find the dirent of a name that stands last of three, behind the dots, in an inline tail."""
    return data.index(b"..." + name) - 36 + 24


def applied(box, *layers):
    answer = box.apply(*(tar.archive(*layer) for layer in layers))
    box.assert_as_modelled(answer, layers)
    return answer


def test_the_same_layer_gives_the_same_bytes(place):
    layer = tar.archive(
        *(file(b"d%d/%d" % (n % 7, n), os.urandom(n * 37), xattrs=((b"user.n", b"%d" % n),)) for n in range(200)),
        file(b".wh.x"), hardlink(b"h", b"d1/1"), symlink(b"s", b"d1"),
    )  # fmt: skip
    digests = set()
    for size in (1, 511, 4096, 70_000, len(layer)):
        pieces = (layer[at : at + size] for at in range(0, len(layer), size))
        path, _, facts = write(place, pieces, name=str(size))
        with open(path, "rb") as image:
            digests.add(hashlib.sha256(image.read()).digest())
        assert os.path.getsize(path) == facts.size
    assert len(digests) == 1


SIZES = (0, 1, TAIL - 1, TAIL, TAIL + 1, 4095, 4096, 4097, 4096 + TAIL, 4096 + TAIL + 1, 8191, 8192)


def test_files_of_sizes_around_the_limits(box):
    xattrs = [((b"user.x", b"v" * size),) if size else () for size in (0, 2000, 2040, 4000)]
    applied(
        box,
        [
            file(b"%d.%d" % (size, number), bytes(range(256)) * 33, xattrs=each)._replace(
                data=(bytes(range(251)) * 33)[:size]
            )
            for size in SIZES
            for number, each in enumerate(xattrs)
        ],
    )


def test_large_files_in_pieces_of_all_sizes(box):
    data = os.urandom(3 << 20)
    layer = [file(b"%d" % n, data[: n * 411_111]) for n in range(8)] + [file(b"end", b"e")]
    for piece in (0, 1 << 20, (1 << 18) + 13, 4096, 777):
        answer = box.apply(tar.archive(*layer), piece=piece)
        box.assert_as_modelled(answer, [layer])


def test_symbolic_links_of_all_sizes(box):
    sizes = (1, 59, 60, 4031, 4032, 4033, 4094, 4095)
    applied(box, [symlink(b"%d" % size, b"t" * size) for size in sizes])


@pytest.mark.parametrize("name", [1, 27, 255])
def test_directories_of_sizes_around_the_limits(box, name):
    """One more name each, over the ends of inline tails and of blocks."""
    counts = list(range(1, 20))
    per_block = 4096 // (12 + max(name, 4))
    counts += [n + d for n in (per_block // 2, per_block, 3 * per_block // 2, 2 * per_block) for d in range(-3, 4)]  # fmt: skip
    layer = []
    for count in {count for count in counts if count > 0}:
        layer.append(directory(b"%d" % count))
        layer += [file((b"%d/%04d" % (count, n)).ljust(len(b"%d/" % count) + name, b"n")) for n in range(count)]  # fmt: skip
    applied(box, layer)


def test_names_are_found_whatever_their_bytes(box):
    names = [bytes([byte]) for byte in range(1, 256) if byte not in b"./"]
    names += [b"." + name for name in names] + [b"..", b"...", b". "] + [b"\xff" * 255, b"a" * 255]
    names.remove(b"..")
    applied(box, [directory(b"d"), *(file(b"d/" + name, name) for name in names)])


def test_a_directory_of_a_hundred_thousand_names(place):
    count = 100_000
    layer = b"".join(tar.header(b"d/" + b"%d" % (n * 7919 % count)) for n in range(count))

    def look(top):
        names = os.listdir(f"{top}/d")
        found = sum(stat.S_ISREG(os.stat(f"{top}/d/{n}").st_mode) for n in range(0, count, 7))
        return len(names), len(set(names)), found, os.path.exists(f"{top}/d/{count}")

    path, _, facts = write(place, [tar.header(b"d/", tar.DIR) + layer])
    assert through_mount(path, look) == (count, count, len(range(0, count, 7)), False)
    assert facts.stands_alone
    image_worker.check(path)


GIB = 1 << 30


def test_a_sparse_file_over_four_gigabytes_stays_sparse(place):
    regions = ((0, 512), (3 * GIB, 512), (5 * GIB, 512))
    size = 5 * GIB + 1000
    text = b"3\n" + b"".join(b"%d\n%d\n" % region for region in regions)
    body = text.ljust(512, b"\0") + b"A" * 512 + b"B" * 512 + b"C" * 512
    layer = tar.pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"f"),
                    (b"GNU.sparse.realsize", b"%d" % size))  # fmt: skip
    path, _, facts = write(place, [layer + tar.header(b"x", size=len(body)) + body])

    def look(top):
        with open(f"{top}/f", "rb") as image:
            parts = [os.pread(image.fileno(), 514, at - 1 if at else 0) for at, _ in regions]
            return os.fstat(image.fileno()).st_size, parts

    seen = [b"A" * 512 + b"\0\0", b"\0" + b"B" * 512 + b"\0", b"\0" + b"C" * 512 + b"\0"]
    assert through_mount(path, look) == (size, seen)
    layers = [path, write(place, [tar.archive(file(b"g", b"G" * 9000))], "above")[0]]
    for stack in (layers, layers[::-1]):  # its addresses begin anywhere
        fds = [os.open(layer, os.O_RDONLY) for layer in stack]
        index = indexed(place, fds)
        assert through_mount(index, look, fds) == (size, seen)
        assert os.stat(index).st_size < 1 << 16
        for fd in fds:
            os.close(fd)
    assert facts.size > 5 * GIB
    assert os.stat(path).st_blocks * 512 < 1 << 20


def test_a_large_file_without_holes_in_large_pieces(place):
    size, piece = 64 << 20, os.urandom(1 << 20)
    pieces = [tar.header(b"f", size=size) + piece, *[piece] * 62, piece, tar.END]

    def look(top):
        with open(f"{top}/f", "rb") as image:
            return hashlib.file_digest(image, "sha256").hexdigest()

    path, stats, facts = write(place, pieces)
    assert through_mount(path, look) == hashlib.sha256(piece * 64).hexdigest()
    assert stats.bytes == size
    assert facts.size < size + (64 << 10)


def test_many_and_long_xattrs(box):
    many = tuple((b"user.%03d" % number, b"v" * number) for number in range(200))
    long = ((b"user." + b"n" * 250, b"x" * 65535), (b"user.a", b"y" * 65535), (b"user.b", b""))
    applied(box, [file(b"many", b"M", xattrs=many), directory(b"long", xattrs=long), file(b"long/f", b"F" * 3000, xattrs=long),
                  directory(b"both", xattrs=many + long), file(b"both/.wh.x")])  # fmt: skip


def test_an_xattr_that_the_format_cannot_hold_is_left_out_and_warned_of(box):
    too_long = ((b"user.large", b"x" * 65536), (b"user.small", b"1"))
    too_many = tuple((b"user.%d" % number, b"x" * 60_000) for number in range(6))
    layer = tar.archive(file(b"f", xattrs=too_long), directory(b"d", xattrs=too_many))
    answer = box.apply(layer)
    assert answer.tree[b"/f"][5] == ((b"user.small", b"1"),)
    assert answer.tree[b"/d"][5] == too_many[:4]
    assert layer_box.warned(answer)["xattr"] == 3


def test_an_xattr_given_twice_has_its_last_value(box):
    layer = tar.pax((b"SCHILY.xattr.user.x", b"1"), (b"SCHILY.xattr.user.x", b"2")) + tar.header(
        b"f"
    )
    assert box.apply(layer).tree[b"/f"][5] == ((b"user.x", b"2"),)


def test_links_are_counted(place):
    layer = tar.archive(file(b"a", b"A"), hardlink(b"b", b"a"), directory(b"d"), hardlink(b"d/c", b"a"), file(b"b", b"B"),
                        directory(b"d/e"), directory(b"d/f"), directory(b"d/g"), hardlink(b"d/g/h", b"a"), file(b"d/g"))  # fmt: skip

    def look(top):
        return [os.stat(f"{top}/{name}").st_nlink for name in ("a", "d/c", "b", "d", "d/e", "d/g")]

    assert through_mount(write(place, [layer])[0], look) == [2, 2, 1, 4, 2, 1]


def test_no_file_has_the_inode_number_0(place):
    """Which readdir(3) takes for a free entry."""
    path, _, facts = write(place, [tar.archive(file(b"f"), directory(b"d"), file(b".wh.w"))])

    def look(top):
        numbers = [os.lstat(path).st_ino for path in (top, *(f"{top}/{n}" for n in "fdw"))]
        return len(set(numbers)), min(numbers) > 0

    assert through_mount(path, look) == (4, True)
    assert facts.inodes == 4


def test_the_owner_is_always_the_one_that_an_idmapped_mount_maps(place):
    def look(top):
        info = os.stat(f"{top}/f")
        return info.st_uid, info.st_gid

    assert through_mount(write(place, [tar.archive(file(b"f", uid=7, gid=9))])[0], look) == (0, 0)


def test_erofs_utils_extract_what_was_put_in(place):
    data = os.urandom(50_000)
    layer = tar.archive(directory(b"d", 0o700), file(b"d/large", data), file(b"d/small", b"s"), file(b"d/two", data[:6000]),
                        symlink(b"d/l", b"small"), *(file(b"d/%d" % n) for n in range(400)))  # fmt: skip
    path, _, facts = write(place, [layer])
    out = str(place / "out")
    subprocess.run(["fsck.erofs", f"--extract={out}", path], check=True, stdout=subprocess.DEVNULL)
    with open(f"{out}/d/large", "rb") as large, open(f"{out}/d/two", "rb") as two:
        assert (large.read(), two.read()) == (data, data[:6000])
    assert os.readlink(f"{out}/d/l") == "small"
    assert len(os.listdir(f"{out}/d")) == 404
    dump = subprocess.run(["dump.erofs", "-s", path], check=True, capture_output=True, text=True)
    assert f"{facts.inodes}\n" in dump.stdout
    assert "sb_csum mtime" in dump.stdout


def test_an_image_that_is_not_finished_does_not_mount(place):
    layer = tar.archive(*(file(b"%d" % n, os.urandom(30_000)) for n in range(100)))
    path = str(place / "torn")
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    scratch = os.open(place, os.O_RDWR | os.O_TMPFILE)
    with sinks.LayerImage(fd, scratch) as image:
        image.begin_layer()
        image.feed(layer)
    assert os.path.getsize(path) > 1 << 20
    with pytest.raises(AssertionError, match="Invalid argument"):
        through_mount(path, os.listdir)


FULL = """
import os, sys
import tarmaker as tar
from fairlead import errors, sinks
layer = tar.archive(*(tar.file(b"d%d/%d" % (n // 10, n), b"x" * 30_000) for n in range(100)))
fd = os.open("image", os.O_RDWR | os.O_CREAT)
scratch = os.open(sys.argv[1], os.O_RDWR | os.O_TMPFILE)
with sinks.LayerImage(fd, scratch) as image:
    try:
        image.begin_layer()
        image.feed(layer)
        image.set_lower(())
        image.end_layer()
    except errors.SpaceError as error:
        print(error)
print(any(os.pread(fd, 4, 1024)))
"""


@pytest.mark.parametrize("space_kib", [4, 60, 200, 1200, 2600, 3000])
@pytest.mark.parametrize(("scratch", "more_kib"), [(".", 0), (".", 2056), ("/dev/shm", 0)])
def test_a_full_disk_is_a_space_error_and_leaves_no_superblock(space_kib, scratch, more_kib):
    """Whichever file cannot grow: the mapped one would end in a signal if nobody had asked before."""
    with layer_box.sandboxed(
        os.sys.executable, "-c", FULL, scratch, options=f"size={space_kib + more_kib}k"
    ) as process:
        out, _ = process.communicate()
    error, superblock = out.decode().splitlines()
    assert os.strerror(errno.ENOSPC) in error
    assert "/image" in error
    assert superblock == "False"


def test_a_layer_that_asks_cannot_end_without_an_answer(place):
    fd = os.open(place / "image", os.O_RDWR | os.O_CREAT)
    scratch = os.open(place, os.O_RDWR | os.O_TMPFILE)
    with sinks.LayerImage(fd, scratch) as image:
        image.begin_layer()
        assert not image.needs_lower
        image.feed(tar.archive(file(b"d/f")))
        assert image.needs_lower
        with pytest.raises(errors.StoreError, match="without its lower layers"):
            image.end_layer()


def test_what_is_no_image_of_ours_is_no_lower_layer(place):
    with open(place / "other", "wb") as other:
        other.write(os.urandom(8192))
    fd = os.open(place / "image", os.O_RDWR | os.O_CREAT)
    lower = os.open(place / "other", os.O_RDONLY)
    with sinks.LayerImage(fd, os.open(place, os.O_RDWR | os.O_TMPFILE)) as image:
        image.begin_layer()
        with pytest.raises(errors.StoreError, match="lower layers"):
            image.set_lower([lower])


def test_a_file_that_is_not_empty_is_not_written(place):
    (place / "image").write_bytes(b"precious")
    fd = os.open(place / "image", os.O_RDWR)
    scratch = os.open(place, os.O_RDWR | os.O_TMPFILE)
    with sinks.LayerImage(fd, scratch) as image, pytest.raises(errors.StoreError):
        image.begin_layer()
    assert (place / "image").read_bytes() == b"precious"


def test_memory_does_not_grow_with_the_layer(place):
    script = """
import os, sys
import tarmaker as tar
from fairlead import sinks
place, count = sys.argv[1], int(sys.argv[2])
fd = os.open(place + "/image", os.O_RDWR | os.O_CREAT)
scratch = os.open(place, os.O_RDWR | os.O_TMPFILE)
def grown():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) >> 10
header, body = bytearray(tar.header(b"f" * 20, size=100)), b"x" * 100 + bytes(412)
with sinks.LayerImage(fd, scratch) as image:
    image.begin_layer()
    before = grown()
    for number in range(count):
        if number % 1000 == 0:
            image.feed(tar.header(b"d%06d" % (number // 1000), tar.DIR))
        image.feed(tar.header(b"d%06d/%d" % (number // 1000, number * 7919 % count), size=100) + body)
    after = grown()
    image.end_layer()
print(after - before, grown() - after)
"""
    environ = {**os.environ, "PYTHONPATH": f"{layer_box.ENGINE}:{layer_box.HERE}"}
    command = [os.sys.executable, "-c", script, str(place), "200000"]
    out = subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout
    fed_mb, ended_mb = (int(word) for word in out.split())
    assert fed_mb < 40
    assert ended_mb < 40
