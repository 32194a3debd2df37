"""Archives that others write: what ``tar -x`` makes of them, and what we do, is the same tree."""

import glob
import io
import os
import subprocess
import tarfile

import layer_box
import pytest

# Unpacks stdin twice in the sandbox, by tar and by the reader; prints what differs.
BOTH = """
import os, subprocess, sys
import layer_worker
from fairlead import sinks
data = sys.stdin.buffer.read()
for name in ("theirs", "ours"):
    os.mkdir(name); os.chmod(name, 0o755); os.utime(name, (5, 5))
subprocess.run(["tar", "-xpPf", "-", "--no-same-owner", "--xattrs", "--delay-directory-restore", "-C", "theirs"], input=data, check=True)
fd = os.open("ours", os.O_RDONLY)
with sinks.LayerTree(fd) as tree:
    tree.begin_layer()
    for at in range(0, len(data), 1 << 18):
        tree.feed(data[at : at + (1 << 18)])
    stats = tree.end_layer()
theirs = layer_worker.snapshot(os.open("theirs", os.O_RDONLY))
ours = layer_worker.snapshot(fd)
if b"./" not in data[:2]:  # no entry for the root: tar's making of children has dated it
    theirs[b""] = ours[b""]
for path in sorted({*theirs, *ours}):
    one, other = theirs.get(path), ours.get(path)
    if one and other and one[0] == layer_worker.FILE:  # set-id bits: ours are stripped, by rule
        one = (one[0], one[1] & 0o1777, *one[2:])
    if one != other:
        print(path, [str(each)[:200] for each in (one, other)])
print("entries", len(ours), stats.warnings)
"""


def assert_same(archive, least):
    *differences, last = layer_box.run_script(BOTH, archive).splitlines()
    assert not differences
    assert int(last.split()[1]) >= least


def packages():
    """Up to four of the Debian packages that apt keeps: one large, three of middling size."""
    found = sorted(glob.glob("/var/cache/apt/archives/*.deb"), key=os.path.getsize)
    small = [path for path in found if os.path.getsize(path) < 8 << 20]
    return small[-1:] + small[len(small) // 2 : len(small) // 2 + 3]


@pytest.fixture
def own_package(tmp_path):
    """A package of our own, with what packages have: links of both kinds, modes, an empty directory."""
    tree = tmp_path / "package"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n"
    )
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/share/empty").mkdir(parents=True)
    (tree / "usr/bin/tool").write_bytes(os.urandom(100_000))
    (tree / "usr/bin/tool").chmod(0o755)
    os.link(tree / "usr/bin/tool", tree / "usr/bin/same")
    os.symlink("tool", tree / "usr/bin/link")
    for number in range(300):
        (tree / f"usr/share/{number}").write_text(str(number))
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", tree, tmp_path / "x.deb"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return str(tmp_path / "x.deb")


def files_of(package):
    return subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", package], check=True, capture_output=True
    ).stdout


def test_a_debian_package_of_our_own_unpacks_as_by_tar(own_package):
    assert_same(files_of(own_package), 305)


def test_debian_packages_at_hand_unpack_as_by_tar():
    for package in packages():
        assert_same(files_of(package), 2)


@pytest.fixture
def odd_tree(tmp_path):
    """Names, sizes and attributes that make writers reach for every extension of the format."""
    tree = tmp_path / "tree"
    tree.mkdir(mode=0o755)
    (tree / ("long" * 50)).write_bytes(b"x" * 1000)
    deep = tree / "/".join(["d" * 90] * 3)
    deep.mkdir(parents=True)
    (deep / "f").write_bytes(b"deep")
    os.symlink("t" * 300, tree / "link")
    os.link(deep / "f", tree / "hard")
    with open(tree / "sparse", "wb") as file:
        for block in range(40):
            file.seek(block * 65536)
            file.write(b"block %d" % block)
        file.truncate(3 << 20)
    with open(tree / "hole", "wb") as file:
        file.truncate(1 << 20)
    os.mkfifo(tree / "fifo")
    (tree / "locked").mkdir()
    (tree / "locked/f").write_bytes(b"")
    (tree / "locked").chmod(0o555)
    for top, names, files in os.walk(tree, topdown=False):
        for name in [*names, *files]:
            os.utime(os.path.join(top, name), (10**9, 10**9), follow_symlinks=False)
    os.utime(tree, (10**9, 10**9))
    return tree


FORMATS = {
    "gnu": ("--format=gnu",),
    "gnu-sparse": ("--format=gnu", "-S"),
    "oldgnu-sparse": ("--format=oldgnu", "-S"),
    "pax": ("--format=pax",),
    "pax-sparse-0.0": ("--format=pax", "-S", "--sparse-version=0.0"),
    "pax-sparse-0.1": ("--format=pax", "-S", "--sparse-version=0.1"),
    "pax-sparse-1.0": ("--format=pax", "-S", "--sparse-version=1.0"),
    "ustar": ("--format=ustar", "--exclude=link", "--exclude=long*", "--exclude=d*"),
    "v7": ("--format=v7", "--exclude=link", "--exclude=long*", "--exclude=d*", "--exclude=fifo"),
    "pax-xattrs": ("--format=pax", "--xattrs"),
}


@pytest.mark.parametrize("style", FORMATS)
def test_what_gnu_tar_writes_unpacks_as_by_tar(odd_tree, style):
    if style == "pax-xattrs":
        os.setxattr(odd_tree / "hard", "user.colour", b"green\0\n")
        os.setxattr(odd_tree / ("d" * 90), "user.empty", b"")
    command = ["tar", "-C", odd_tree, *FORMATS[style], "-cf", "-", "."]
    assert_same(subprocess.run(command, check=True, capture_output=True).stdout, 6)


@pytest.mark.parametrize("style", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_what_python_writes_unpacks_as_by_tar(odd_tree, style):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=style) as tar:
        tar.add(odd_tree, ".")
    assert_same(out.getvalue(), 6)


def test_memory_does_not_grow_with_the_layer():
    script = """
import os
import tarmaker as tar
from fairlead import sinks
os.mkdir("root")
fd = os.open("root", os.O_RDONLY)
piece = bytes(1 << 20)
def grown():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) >> 10
with sinks.LayerTree(fd) as tree:
    tree.begin_layer()
    before = grown()
    tree.feed(tar.header(b"big", size=1 << 28))
    for _ in range(1 << 8):
        tree.feed(piece)
    after_file = grown()
    for number in range(20_000):
        tree.feed(tar.header(b"d%d/f" % (number % 1000) + b"x" * 50 + b"%d" % number))
    tree.end_layer()
print(after_file - before, grown() - after_file)
"""
    file_mb, names_mb = (int(word) for word in layer_box.run_script(script).split())
    assert file_mb <= 1
    assert names_mb <= 4
