"""The engine's launch path in one file: thirty modules cost a launch 1.5 ms to find and open.

``python -m fairlead.bundle FILE`` writes it at install time; the engine's door
(``spank_shim/engine.py.in``) has modules loaded from it. The file is what ``marshal`` makes of the
interpreter's bytecode magic and, per module, its name, source file, the source's time and size, and
code.

Rules:
- A module whose source has changed, and every module if the interpreter has, is loaded as usual:
  the file can be stale or absent without harm. It is root's, as the modules themselves are.
- It holds what the launch path loads, found by loading it.
"""

from __future__ import annotations

import marshal
import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType

    Entry = tuple[str, int, int, CodeType]  # source file, its time in ns and size in bytes, code


class Finder:
    """Finds modules in a bundle; goes into ``sys.meta_path`` before the usual ones."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries = entries

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return where a module comes from, None if it is not here or its source is another."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        source, time_ns, size, _ = entry
        try:
            now = os.stat(source)
        except OSError:
            return None
        if (now.st_mtime_ns, now.st_size) != (time_ns, size):
            return None
        folder, _, file = source.rpartition("/")
        spec = ModuleSpec(name, self, origin=source, is_package=file == "__init__.py")  # type: ignore[arg-type] # a loader by what it does
        spec.has_location = True
        if file == "__init__.py":
            spec.submodule_search_locations = [folder]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the making of the module to the import system."""

    def exec_module(self, module: ModuleType) -> None:
        """Run a module's code."""
        exec(self._entries[module.__name__][3], module.__dict__)  # noqa: S102 - what importing is


def use(path: str) -> None:
    """Load modules from a bundle; one that is absent or another Python's has none."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        if data.startswith(MAGIC_NUMBER):
            sys.meta_path.insert(0, Finder(marshal.loads(memoryview(data)[len(MAGIC_NUMBER) :])))  # noqa: S302 - root's file
    except (OSError, ValueError, EOFError, TypeError):
        return


def _loaded() -> dict[str, str]:
    """Load the launch path; return its modules with their source files."""
    from fairlead import standin

    with standin.typing_stand_in():
        from fairlead.run import hub, step  # noqa: F401
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    return {
        name: file
        for name, file in files.items()
        if name.partition(".")[0] == "fairlead" and file and file.endswith(".py")
    }


def _entry(source: str) -> Entry:
    seen = os.stat(source)
    with open(source, "rb") as file:
        code = compile(file.read(), source, "exec", dont_inherit=True)
    return source, seen.st_mtime_ns, seen.st_size, code


def write(path: str) -> None:
    """Write the bundle of the launch path, whole or not at all."""
    entries = {name: _entry(source) for name, source in _loaded().items() if name != "__main__"}
    with open(f"{path}.new", "wb") as file:
        file.write(MAGIC_NUMBER + marshal.dumps(entries))
    os.replace(f"{path}.new", path)


if __name__ == "__main__":
    write(sys.argv[1])
