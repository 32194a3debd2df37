"""The house keeps its order: imports go one way, the launch path is lean, pages follow the code."""

import ast
import os
import re
import tomllib

from fairlead import keys
from fairlead.cli import manual

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PACKAGE = os.path.join(ROOT, "engine/fairlead")
FLOORS = (
    (
        "errors",
        "jsontext",
        "standin",
        "log",
        "forms",
        "tables",
        "keys",
        "sarusjson",
        "config",
        "_c_ext",
    ),
    ("kernel",),
    ("sinks",),
    ("image",),
    ("store",),
    ("shared",),
    ("host",),
    ("glibc",),
    ("plan",),
    ("run",),
    ("cli", "bundle"),
)
LIMIT = 500


def modules():
    for path, _, files in os.walk(PACKAGE):
        for name in files:
            if name.endswith(".py"):
                full = os.path.join(path, name)
                yield os.path.relpath(full, PACKAGE), full


def floor(name):
    return next((i for i, names in enumerate(FLOORS) if name in names), None)


def imported(tree):
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] == "fairlead"
        ):
            parts = node.module.split(".")[1:]
            for alias in node.names:
                yield (parts or [alias.name])[0]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "fairlead" and len(parts) > 1:
                    yield parts[1]


def test_a_module_imports_only_what_stands_above_it():
    wrong = []
    for relative, path in modules():
        own = floor(relative.split("/")[0].removesuffix(".py"))
        if own is None:
            continue
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read())
        for name in imported(tree):
            other = floor(name)
            if other is not None and other > own:
                wrong.append(f"{relative} imports fairlead.{name}")
    assert wrong == []


def test_every_package_is_on_a_floor():
    found = {relative.split("/")[0].removesuffix(".py") for relative, _ in modules()}
    assert {name for name in found if floor(name) is None} == {"__init__"}


def test_architecture_names_every_module_in_its_floor():
    with open(os.path.join(ROOT, "docs/architecture.md"), encoding="utf-8") as page:
        house = page.read().partition("engine/fairlead/\n")[2].partition("\n```")[0]
    rooms = re.split(r"^  (?=\w+/ )|^(?=c_ext/|spank_shim/)", house, flags=re.MULTILINE)
    named = {re.match(r"\w+/|", room).group(): set(re.findall(r"\w+", room)) for room in rooms}
    shim = {name[:-2] for name in os.listdir(f"{ROOT}/spank_shim") if name.endswith(".c")}
    assert {name for name in shim - named["spank_shim/"] if not name.startswith("broker_")} == set()
    for relative, _ in modules():
        directory, _, module = relative.removesuffix(".py").rpartition("/")
        if module != "__init__" and directory != "cli":
            assert module in named[f"{directory}/" if directory else ""], relative


def test_only_kernel_imports_the_extension_and_only_registry_and_transport_open_sockets():
    for relative, path in modules():
        with open(path, encoding="utf-8") as file:
            text = file.read()
        if "_c_ext" in text:
            assert relative == "kernel.py"
        if re.search(
            r"^\s*(import|from) (urllib3|http\.client|socket|ssl|requests)", text, re.MULTILINE
        ):
            assert relative.startswith("image/"), relative


def test_modules_and_functions_keep_to_their_size():
    for relative, path in modules():
        with open(path, encoding="utf-8") as file:
            text = file.read()
        assert text.count("\n") <= LIMIT, relative
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno <= 60, f"{relative}: {node.name}"


def test_every_module_says_what_it_is_for():
    for relative, path in modules():
        with open(path, encoding="utf-8") as file:
            assert ast.get_docstring(ast.parse(file.read())), relative


def test_site_file_template_names_every_setting_with_its_default():
    with open(os.path.join(ROOT, "conf/fairlead.toml"), encoding="utf-8") as file:
        text = file.read()
    table = tomllib.loads(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE))
    defaults = {
        key: list(s.default) if isinstance(s.default, tuple) else s.default
        for key, s in keys.SETTINGS.items()
    }
    assert table == defaults
    for key, setting in keys.SETTINGS.items():
        assert f"({setting.variable or 'site only'})" in text, key


def test_manual_pages_are_written_from_the_parsers(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    manual.write(str(tmp_path))
    kept = os.path.join(ROOT, "docs/man")
    assert sorted(os.listdir(kept)) == sorted(os.listdir(tmp_path))
    for name in os.listdir(kept):
        with open(os.path.join(kept, name), encoding="utf-8") as file:
            assert file.read() == (tmp_path / name).read_text(), (
                f"python -m fairlead.cli.manual docs/man ({name})"
            )


def test_no_todo_without_an_issue():
    for place in ("engine", "c_ext", "spank_shim", "tests"):
        for path, _, files in os.walk(os.path.join(ROOT, place)):
            for name in files:
                if name.endswith((".py", ".c", ".h")) and name != "test_house.py":
                    with open(os.path.join(path, name), encoding="utf-8") as file:
                        for line in file:
                            assert not re.search(r"\b(TODO|FIXME|XXX)\b(?!.*#\d)", line), (
                                f"{name}: {line}"
                            )
