"""The child that looks into an image: it ends with the process that made it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
# Prints the child's number, from inside the namespaces that it made, and hangs there.
PROGRAM = """
import os, time
from fairlead import kernel
from fairlead.run import view

def work():
    kernel.create_namespace()
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(60)

view._in_child(work)
"""


def test_child_ends_when_its_engine_is_killed():
    engine = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env={"PYTHONPATH": os.path.join(HERE, "../../engine")},
        stdout=subprocess.PIPE,
    )
    assert engine.stdout is not None
    child = os.pidfd_open(int(engine.stdout.readline()))
    try:
        engine.send_signal(signal.SIGKILL)
        engine.wait(10)
        assert select.select([child], [], [], 10)[0], "the child lives on"
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(child, signal.SIGKILL)
        os.close(child)


def test_child_whose_engine_is_gone_is_told():
    """The signal is for a later end of the parent only: one that was before is seen by its number."""
    program = "import os\nfrom fairlead import kernel\nprint(kernel.end_with(os.getppid()), kernel.end_with(1 << 21))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": os.path.join(HERE, "../../engine")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True False\n"
