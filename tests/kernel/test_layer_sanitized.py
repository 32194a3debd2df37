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
    for kind in ("sink", "tar", "layer", "tree", "erofs", "name_hash")
    for path in glob.glob(f"{C_EXT}/{kind}*.c")
]
FLAGS = ("-std=gnu17", "-g", "-O1", "-D_GNU_SOURCE", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
         "-fno-omit-frame-pointer", "-Wall", "-Wextra", "-Werror")  # fmt: skip
EXAMPLES = int(os.environ.get("FAIRLEAD_EXAMPLES", "600"))
CONTINUES = 1


class Driver:
    def __init__(self, process):
        self._process = process

    def feed(self, archive, piece=0, flags=0):
        self._process.stdin.write(struct.pack("=III", piece, flags, len(archive)) + archive)
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the driver died: see its report on stderr"
        return line.decode()

    def apply(self, layers, piece=0):
        return [
            self.feed(layer, piece, CONTINUES if number else 0)
            for number, layer in enumerate(layers)
        ]


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


@pytest.mark.parametrize("row", layer_corpus.ROWS, ids=lambda row: row.claim)
def test_corpus_in_pieces_of_any_size(driver, row):
    layers = layer_corpus.archives(row)
    whole = driver.apply(layers)
    longest = max(len(layer) for layer in layers)
    for piece in (1, 7, 511, 512, 513, 4099) if longest < 50_000 else (511, 4099):
        assert driver.apply(layers, piece) == whole, f"pieces of {piece} bytes"
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
    whole = driver.feed(archive)
    assert whole.split()[0] in ("ok", "refused", "failed")
    assert driver.feed(archive, 1) == whole
    assert driver.feed(archive, 509) == whole
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
