"""The C reader under AddressSanitizer, LeakSanitizer and UBSan, built by gcc and by clang: the corpus and its mutants.

A report of a sanitizer ends the driver (-fno-sanitize-recover), which fails the test that asked it.
"""

import glob
import os
import random
import shutil
import struct
import subprocess

import layer_box
import layer_corpus
import pytest
import tarmaker as tar
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

HERE = os.path.dirname(os.path.abspath(__file__))
C_EXT = os.path.join(HERE, "..", "..", "c_ext")
DRIVER = os.path.join(HERE, "..", "c", "feed_layers.c")
SOURCES = [
    path
    for kind in ("sink", "tar", "layer", "tree", "erofs", "name_hash", "walk")
    for path in glob.glob(f"{C_EXT}/{kind}*.c")
]
FLAGS = ("-std=gnu17", "-g", "-O1", "-D_GNU_SOURCE", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
         "-fno-omit-frame-pointer", "-Wall", "-Wextra", "-Werror")  # fmt: skip
EXAMPLES = int(os.environ.get("FAIRLEAD_EXAMPLES", "600"))
CONTINUES, IMAGE, DAMAGE, INDEX = 1, 2, 4, 8
SINKS = {"tree": 0, "image": IMAGE | INDEX}


class Driver:
    def __init__(self, process):
        self._process = process

    def feed(self, archive, piece=0, flags=0):
        self._process.stdin.write(struct.pack("=III", piece, flags, len(archive)) + archive)
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the driver died: see its report on stderr"
        return line.decode()

    def apply(self, layers, piece=0, sink=0):
        return [
            self.feed(layer, piece, sink | (CONTINUES if number else 0))
            for number, layer in enumerate(layers)
        ]

    def feed_above_damage(self, archive, flips):
        """Convert a layer above one image, the topmost, in which bits were turned at offsets."""
        words = [len(flips), *(word for flip in flips for word in flip)]
        head = struct.pack(f"={len(words)}I", *words)
        return self.feed(head + archive, 0, IMAGE | CONTINUES | DAMAGE | INDEX)


def build(compiler):
    """Build the driver, readable by the sandbox's user; None where the compiler lacks its sanitizers."""
    binary = f"/var/tmp/fairlead-feed-{compiler}-{os.getpid()}"
    probe = [compiler, "-fsanitize=address,undefined", "-x", "c", "-", "-o", binary]
    if (
        not shutil.which(compiler)
        or subprocess.run(probe, input=b"int main(void){}", capture_output=True).returncode
    ):
        return None
    subprocess.run([compiler, *FLAGS, "-o", binary, DRIVER, *SOURCES], check=True)
    os.chmod(binary, 0o755)
    return binary


@pytest.fixture(scope="module", params=["gcc", "clang"])
def driver(request):
    binary = build(request.param)
    if not binary:
        pytest.skip(
            f"no {request.param} with sanitizers here (for clang: the package libclang-rt-14-dev)"
        )
    with layer_box.sandboxed(binary) as process:
        yield Driver(process)
    os.unlink(binary)
    assert process.returncode == 0, "leaks, or a tree that cannot be removed"


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("row", layer_corpus.ROWS, ids=lambda row: row.claim)
def test_corpus_in_pieces_of_any_size(driver, row, sink):
    layers = layer_corpus.archives(row)
    whole = driver.apply(layers, sink=SINKS[sink])
    longest = max(len(layer) for layer in layers)
    for piece in (1, 7, 511, 512, 513, 4099) if longest < 50_000 else (511, 4099):
        assert driver.apply(layers, piece, SINKS[sink]) == whole, f"pieces of {piece} bytes"
    assert whole[-1].startswith("refused" if row.refused else "ok")


def repaired(archive):
    """Give every block that looks like a header its checksum again, so that mutants get past it."""
    blocks = [archive[at : at + 512] for at in range(0, len(archive), 512)]
    return b"".join(
        tar.checksummed(block) if len(block) == 512 and block[257:262] == b"ustar" else block
        for block in blocks
    )


def mutated(archive, seed):
    """Change, insert, remove, repeat or swap a few bytes or blocks."""
    dice = random.Random(seed)
    data = bytearray(archive)
    for _ in range(dice.choice((1, 1, 2, 4, 8))):
        at = dice.randrange(len(data) + 1)
        kind = dice.randrange(8)
        if kind == 0:
            data[at : at + 1] = bytes(
                [dice.choice((0, 1, 0x20, 0x2F, 0x30, 0x37, 0x7F, 0x80, 0xFF, dice.randrange(256)))]
            )
        elif kind == 1:
            del data[at : at + dice.choice((1, 2, 511, 512, 513))]
        elif kind == 2:
            data[at:at] = bytes(dice.randrange(256) for _ in range(dice.choice((1, 2, 100, 512))))
        elif kind == 3 and len(data) >= 1024:
            one, two = (512 * dice.randrange(len(data) // 512) for _ in range(2))
            data[one : one + 512], data[two : two + 512] = (
                data[two : two + 512],
                data[one : one + 512],
            )
        elif kind == 4 and data:  # a bit
            data[at % len(data)] ^= 1 << dice.randrange(8)
        elif kind == 5 and len(data) >= 512:  # a field of a header
            base = 512 * dice.randrange(len(data) // 512)
            start, size = dice.choice(((0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8),
                                       (345, 155), (386, 96), (482, 1), (483, 12)))  # fmt: skip
            words = (b"\xff" * size, b"\x80" + b"\xff" * size, b"7" * size, b"/" * size, b".." * size, b"x" * size,
                     bytes(size), bytes([dice.choice(b"01234567SxgLKX")]) * size)  # fmt: skip
            data[base + start : base + start + size] = dice.choice(words)[:size]
        elif kind == 6 and data:  # a digit, where numbers in text stand
            digits = [place for place in range(len(data)) if 0x30 <= data[place] <= 0x39]
            if digits:
                data[dice.choice(digits)] = dice.choice(b"0123456789-,.\n x")
        elif kind == 7:
            base = 512 * dice.randrange(len(data) // 512 + 1)
            data[base:base] = data[base : base + 512 * dice.randrange(1, 4)]
    return bytes(data)


SMALL = [
    archive
    for row in layer_corpus.ROWS
    for archive in layer_corpus.archives(row)
    if 0 < len(archive) < 20_000
]


def check(driver, archive):
    """Return what the tree says; the image says the same, for an image without lower layers."""
    whole = driver.feed(archive)
    assert whole.split()[0] in ("ok", "refused", "failed")
    assert driver.feed(archive, 1) == whole
    assert driver.feed(archive, 509) == whole
    image = driver.feed(archive, 0, IMAGE)
    assert driver.feed(archive, 509, IMAGE) == image
    assert image.split()[0] == whole.split()[0]
    if image.startswith("ok"):
        assert image.split()[:4] == whole.split()
    return whole


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(base=st.sampled_from(SMALL), seed=st.integers(0, 2**32), repair=st.booleans())
@example(base=SMALL[0], seed=0, repair=True)
def test_mutants_neither_crash_nor_depend_on_the_pieces(driver, base, seed, repair):
    archive = mutated(base, seed)
    if repair:
        archive = repaired(archive)
    assert not check(driver, archive).startswith("failed")


@settings(max_examples=EXAMPLES // 4, deadline=None, suppress_health_check=list(HealthCheck))
@given(archive=st.binary(max_size=3000))
def test_noise_is_refused_or_empty(driver, archive):
    check(driver, archive)


@settings(max_examples=EXAMPLES // 4, deadline=None, suppress_health_check=list(HealthCheck))
@given(records=st.binary(max_size=600), name=st.binary(max_size=100))
def test_noise_as_a_pax_header(driver, records, name):
    check(driver, tar.extended(records) + tar.header(name, size=3) + tar.padded(b"abc") + tar.END)


# Questions of every kind, so that all of the reader is at work.
LOWER = tar.archive(
    *(tar.directory(name, xattrs=((b"user.x", b"1"),)) for name in (b"a", b"a/b", b"wide")),
    *(tar.file(b"wide/%d" % number + b"n" * 60, b"x") for number in range(300)),
    tar.file(b"a/b/large", bytes(range(256)) * 40, xattrs=((b"user.large", b"v" * 5000),)),
    tar.file(b"a/b/small", b"small"),
    tar.hardlink(b"a/b/other", b"a/b/small"),
    tar.symlink(b"l", b"a/b"),
    tar.symlink(b"long", b"a/../" * 810 + b"a/b"),
    tar.fifo(b"a/p"),
    tar.file(b"a/.wh.gone"),
    tar.file(b"a/b/.wh..wh..opq"),
)
UPPER = tar.archive(
    tar.file(b"l/new"), tar.file(b"long/newer"), tar.hardlink(b"k", b"a/b/large"),
    tar.hardlink(b"m", b"a/b/small"), tar.hardlink(b"n", b"l/other"), tar.hardlink(b"o", b"a/p"),
    tar.file(b"wide/150" + b"n" * 60 + b"/.wh.x"), tar.file(b"a/none/.wh.x"), tar.file(b"wide/y/z"),
    tar.file(b".wh..wh..opq"),
)  # fmt: skip


def test_the_layers_of_the_damage_test_are_good(driver):
    assert driver.feed(LOWER, 0, IMAGE).startswith("ok")
    assert driver.feed_above_damage(UPPER, []).split()[-1] == "asked"


@settings(max_examples=EXAMPLES * 2, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    flips=st.lists(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 255)), min_size=1, max_size=12
    ),
    near=st.booleans(),
)
@example(flips=[(1024, 1)], near=False)
def test_a_damaged_lower_image_is_read_or_refused(driver, flips, near):
    size = int(driver.feed(LOWER, 0, IMAGE).split()[4])
    if near:  # into the metadata, which stand at the end
        flips = [(size - 1 - place % 40_000, mask) for place, mask in flips]
    line = driver.feed_above_damage(UPPER, flips)
    assert line.split()[0] in ("ok", "refused", "failed")


def test_a_damaged_superblock_is_noticed(driver):
    for place in range(1024, 1024 + 128):
        driver.feed(LOWER, 0, IMAGE)
        line = driver.feed_above_damage(UPPER, [(place, 4)])
        assert line.startswith("failed 74 "), line  # EBADMSG
