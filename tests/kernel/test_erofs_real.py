"""Layers as images have them: Debian packages stacked, by either sink, and a container's work on top of the stack."""

import os
import subprocess

import image_worker
import layer_box
import pytest
import tarmaker as tar
from sandbox import CLONE_NEWNS, MS_PRIVATE, MS_REC, checked
from tarmaker import directory, file, hardlink, symlink
from test_layer_real import files_of, packages


@pytest.fixture(scope="module")
def image_box():
    with layer_box.image_box() as worker:
        yield worker


@pytest.fixture(scope="module")
def tree_box():
    with layer_box.box() as worker:
        yield worker


def usr_merged():
    """What Debian's base layer has: the links through which its packages then go."""
    return tar.archive(
        *(directory(b"./" + name) for name in (b"", b"usr", b"usr/bin", b"usr/lib", b"usr/sbin")),
        *(symlink(name, b"usr/" + name) for name in (b"bin", b"lib", b"sbin")),
    )


def removal(tree):
    """A last layer that removes some of everything, and links to what lies at the bottom."""
    files = [path[1:] for path, looks in tree.items() if looks[0] == tar.FILE]
    marks = [path.rpartition(b"/") for path in files[::17]]
    return tar.archive(
        *(file(head + slash + b".wh." + name) for head, slash, name in marks),
        *(hardlink(b"linked%d" % n, path) for n, path in enumerate(files[5::40]) if path not in files[::17]),
    )  # fmt: skip


def test_packages_in_a_stack_are_what_one_merged_tree_of_them_is(image_box, tree_box):
    layers = [usr_merged(), *(files_of(package) for package in packages()[:4])]
    first = tree_box.apply(*layers)
    assert not first.error
    layers.append(removal(first.tree))
    tree, image = tree_box.apply(*layers), image_box.apply(*layers)
    assert not tree.error
    assert not image.error
    assert len(tree.tree) > 5
    for path in sorted({*tree.tree, *image.tree}):
        if path:  # the root is the caller's business where no layer lists it
            one, other = tree.tree[path], image.tree[path]
            assert one[:4] == other[:4], path
            assert one[5] == other[5], path
    assert [one._replace(warnings=()) for one in tree.stats] == [one._replace(warnings=()) for one in image.stats]  # fmt: skip


WRITER = r"""
set -e
cd /mnt/root
echo more >>d/file; test "$(cat d/file)" = "$(printf 'old\nmore')"
rm -rf gone; test ! -e gone; mkdir gone; test -z "$(ls -A gone)"
mv d/file d/moved; test ! -e d/file
echo new >d/sub/new
chmod 700 d
ln d/moved linked
test -z "$(ls -A whiteouts)"
mkdir whiteouts/a; rmdir whiteouts/a
echo done
"""


def as_the_user(mounts):
    image_worker.enter_namespace()
    libc = image_worker._libc
    checked(libc.mount(b"none", b"/mnt", b"tmpfs", 0, b"mode=0755"))
    for name in ("upper", "work", "root"):
        os.mkdir(f"/mnt/{name}")
    for number, fd in enumerate(mounts):
        os.mkdir(f"/mnt/{number}")
        image_worker.move_mount(fd, f"/mnt/{number}")
    lower = ":".join(f"/mnt/{number}" for number in reversed(range(len(mounts))))
    options = f"lowerdir={lower},upperdir=/mnt/upper,workdir=/mnt/work,userxattr".encode()
    checked(libc.mount(b"overlay", b"/mnt/root", b"overlay", 0, options))
    result = subprocess.run(["sh", "-c", WRITER], capture_output=True, text=True, check=False)
    return result.stdout, result.stderr


def stack(place, *layers):
    mounts, lower = [], []
    for number, layer in enumerate(layers):
        path = str(place / str(number))
        image_worker.convert(tar.archive(*layer), path, lower, layer_box.Request(()))
        lower.append(os.open(path, os.O_RDONLY))
        mounts.append(image_worker.mounted(path))
    return mounts


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount")
def test_a_container_can_change_and_remove_what_the_images_hold(tmp_path):
    mounts = stack(
        tmp_path,
        (directory(b"d"), file(b"d/file", b"old\n"), directory(b"d/sub"), directory(b"gone"), file(b"gone/x")),
        (file(b"d/sub/y"), directory(b"gone"), file(b"gone/.wh..wh..opq"), file(b"gone/z"),
         directory(b"whiteouts"), file(b"whiteouts/.wh.a")),
    )  # fmt: skip
    assert image_worker.in_a_child(as_the_user, mounts) == ("done\n", "")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount")
def test_an_image_mounts_from_a_loop_device_too(tmp_path):
    """As kernels before 6.12 need it."""
    path = str(tmp_path / "image")
    image_worker.convert(tar.archive(file(b"f", b"F" * 5000)), path, [], layer_box.Request(()))

    def look():
        checked(image_worker._libc.unshare(CLONE_NEWNS))
        checked(image_worker._libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
        subprocess.run(["mount", "-t", "erofs", "-o", "loop,ro", path, "/mnt"], check=True)
        with open("/mnt/f", "rb") as image:
            return image.read()

    assert image_worker.in_a_child(look) == b"F" * 5000
