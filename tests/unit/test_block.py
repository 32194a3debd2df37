"""The launch block: what Python writes is what C reads, and a damaged block is refused whole."""

import os
import subprocess
import sys

import plans
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead import kernel
from fairlead.run import block

READ = """
import sys
from fairlead import kernel
try:
    kernel.compose_root(sys.stdin.buffer.read())
except kernel.Failure as failure:
    print(failure.step)
"""


def opened(data):
    """Open a block the way compose_root does; it must fail at the block, never behind it."""
    report = kernel.ffi.new("struct report *")
    cursor = kernel.ffi.new("struct block_cursor *")
    del report
    return kernel.lib.block_open(cursor, data, len(data))


def test_compiled_plan_is_accepted():
    assert opened(block.compile_plan(plans.make())) == 0


def test_every_truncation_is_refused():
    data = block.compile_plan(plans.make())
    assert all(opened(data[:size]) != 0 for size in range(len(data)))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mutations_never_crash_the_reader(data):
    whole = bytearray(block.compile_plan(plans.make()))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    assert opened(bytes(whole)) in (0, -74)


@given(st.binary(max_size=200))
def test_noise_is_refused(noise):
    assert opened(noise) != 0


def test_string_with_a_nul_is_refused():
    assert opened(block.join([block.record(kernel.lib.OP_WORKDIR, 0, "/a\0b")])) != 0


def test_block_without_a_root_is_refused_before_anything_is_done():
    data = block.join([block.record(kernel.lib.OP_WORKDIR, 0, "/")])
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", READ], input=data, capture_output=True, env=environ
    )
    assert result.stdout.decode().strip() == "block"
