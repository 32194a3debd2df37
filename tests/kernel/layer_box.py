"""The test's side of ``layer_worker``: start it in the sandbox, send it layers, compare with the model."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import layer_model
import pytest
import tarmaker
from layer_worker import ROOT_MTIME, Answer, Request

HERE = os.path.dirname(os.path.abspath(__file__))
ENGINE = os.path.join(HERE, "..", "..", "engine")

Layer = Sequence[tarmaker.Entry]


@contextmanager
def sandboxed(*command: str, options: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """Start a command in the sandbox, with pipes."""
    place = tempfile.mkdtemp(prefix="fairlead-box-", dir="/var/tmp")
    os.chmod(place, 0o755)
    environ = {**os.environ, "PYTHONPATH": f"{ENGINE}:{HERE}", "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [sys.executable, f"{HERE}/sandbox.py", place, f"mode=0755,size=2g,{options}", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environ,
    )
    try:
        yield process
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe and not pipe.closed:
                pipe.close()
        process.wait()
        shutil.rmtree(place)


class Box:
    """One worker, for as many requests as a test module has."""

    def __init__(self, process: subprocess.Popen[bytes], *, overlay: bool = False) -> None:
        self._process = process
        self._overlay = overlay

    def assert_as_modelled(self, answer: Answer, layers: Sequence[Layer]) -> None:
        """Hold an answer against the model of a tree, or of an overlay."""
        assert_as_modelled(answer, layers, overlay=self._overlay)

    def ask(self, request: Request) -> Answer:
        assert self._process.stdin
        assert self._process.stdout
        pickle.dump(request, self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)

    def apply(self, *layers: bytes, **options: object) -> Answer:
        """Apply archives; whatever comes of it, the canary lives and the tree can be removed."""
        answer = self.ask(Request(layers, **options))  # type: ignore[arg-type]
        assert answer.canary, "something outside the root was touched"
        assert answer.removed or options.get("keep")
        return answer


@contextmanager
def box(options: str = "") -> Iterator[Box]:
    worker = "import layer_worker; layer_worker.main()"
    with sandboxed(sys.executable, "-c", worker, options=options) as process:
        yield Box(process)


@contextmanager
def image_box() -> Iterator[Box]:
    """The same, for images: as root, who alone may mount them."""
    if os.getuid() != 0 or not shutil.which("fsck.erofs"):
        pytest.skip("needs root, and the package erofs-utils")
    environ = {**os.environ, "PYTHONPATH": f"{ENGINE}:{HERE}", "PYTHONDONTWRITEBYTECODE": "1"}
    place = tempfile.mkdtemp(prefix="fairlead-images-", dir="/var/tmp")
    process = subprocess.Popen(
        [sys.executable, f"{HERE}/image_worker.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=place,
        env=environ,
    )
    try:
        yield Box(process, overlay=True)
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe and not pipe.closed:
                pipe.close()
        process.wait()
        shutil.rmtree(place)


BOXES = {"tree": box, "image": image_box}


def run_script(script: str, stdin: bytes = b"", prefix: tuple[str, ...] = ()) -> str:
    """Run Python text in the sandbox; returns what it prints."""
    with sandboxed(*prefix, sys.executable, "-c", script) as process:
        out, _ = process.communicate(stdin)
    assert process.returncode == 0, out.decode()
    return out.decode()


def expected(layers: Sequence[Layer], *, overlay: bool = False) -> layer_model.Model | None:
    """Return the model after the layers, or None if they are to be refused."""
    model = layer_model.Model(root_mtime=ROOT_MTIME, overlay=overlay)
    try:
        for layer in layers:
            model.apply(layer)
    except layer_model.Refused:
        return None
    return model


def acceptable(layers: Sequence[Layer]) -> list[list[tarmaker.Entry]]:
    """Return the layers without the entries at which the model refuses."""
    result: list[list[tarmaker.Entry]] = []
    for layer in layers:
        result.append([])
        for entry in layer:
            result[-1].append(entry)
            if expected(result) is None:
                result[-1].pop()
    return result


WARNINGS = {
    "clamped": "absolute or hold",
    "duplicate": "more than once",
    "whiteout content": "not empty",
    "xattr": "extended attributes",
}


def warned(answer: Answer) -> dict[str, int]:
    """Count the warnings of all layers by kind."""
    lines = [line for stats in answer.stats for line in stats.warnings]
    return {
        kind: sum(int(line.split()[0]) for line in lines if words in line)
        for kind, words in WARNINGS.items()
    }


def assert_as_modelled(answer: Answer, layers: Sequence[Layer], *, overlay: bool = False) -> None:
    """Hold an answer against the model: both refuse, or the tree, warnings and counts are the same."""
    model = expected(layers, overlay=overlay)
    if model is None:
        assert answer.kind == "LayerError", (
            f"the model refuses this, the reader said {answer.error!r}"
        )
        return
    assert not answer.error
    assert answer.tree == model.snapshot()
    assert {kind: count for kind, count in warned(answer).items() if count} == {
        kind: count for kind, count in model.warnings.items() if count
    }
    assert sum(stats.skipped_devices for stats in answer.stats) == model.devices
    assert sum(stats.entries for stats in answer.stats) == sum(len(layer) for layer in layers)
