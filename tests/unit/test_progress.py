"""Progress bars: two for any number of layers, no thread, nothing left on the terminal."""

from __future__ import annotations

import io
import threading

import pytest
from rich import console

from fairlead.cli import progress


@pytest.fixture
def screen(monkeypatch):
    out = io.StringIO()
    terminal = console.Console(file=out, force_terminal=True, width=120)
    monkeypatch.setattr(progress.console, "Console", lambda **_: terminal)
    monkeypatch.setattr(progress, "_EVERY_S", 0)
    return out


def test_layers_are_summed_up_into_one_bar_per_kind_of_work(screen):
    bars = progress.bars("q.io/x:1")
    for number in range(60):
        bars.start(f"f{number}", f"fetch {number}", 1000)
        bars.start(f"u{number}", f"unpack {number}", 1000)
    bars.advance("f1", 500)
    last = screen.getvalue().rpartition("q.io/x:1: fetch")[2]
    assert "0.5/60.0 kB" in last
    assert "q.io/x:1: unpack" in last
    assert "0.0/60.0 kB" in last
    for number in range(60):
        bars.finish(f"f{number}")
        bars.finish(f"u{number}")


def test_no_thread_is_started(screen):
    before = threading.active_count()
    bars = progress.bars("x")
    bars.start("a", "fetch a", 10)
    bars.advance("a", 5)
    assert threading.active_count() == before
    bars.finish("a")


def test_cursor_is_given_back_at_the_end(screen):
    bars = progress.bars("x")
    bars.start("a", "fetch a", 10)
    bars.finish("a")
    hidden, shown = screen.getvalue().rfind("\x1b[?25l"), screen.getvalue().rfind("\x1b[?25h")
    assert 0 <= hidden < shown


def test_label_cannot_paint_the_screen(screen):
    bars = progress.bars("[red]x[/red]")
    bars.start("a", "fetch a", 10)
    assert "[red]x[/red]: fetch" in screen.getvalue()
    bars.finish("a")
