"""The manual pages, one per verb, written from the same parsers that ``--help`` uses.

``python -m fairlead.cli.manual DIRECTORY`` writes ``fairlead.1`` and ``fairlead-VERB.1``; a test
holds ``docs/man`` to what the parsers say. Format: man(7), without indentation tricks.
"""

from __future__ import annotations

import argparse
import os
import sys

import fairlead
from fairlead.cli import main

STATUS = (
    ("125", "Fairlead failed; one line on standard error names what, where, why and the remedy."),
    ("126", "The command exists in the image and cannot be executed."),
    ("127", "The command does not exist in the image."),
    ("other", "The command's own."),
)


def page(verb: str) -> str:
    """Return the page of one verb."""
    parser = main.parser_for(verb)
    name = f"fairlead-{verb}"
    lines = [
        f'.TH {name.upper()} 1 "" "fairlead {fairlead.__version__}" "Fairlead"',
        *_section("NAME", [f"{_text(name)} \\- {_text(main.VERBS[verb])}"]),
        *_section("SYNOPSIS", [_text(_synopsis(parser))]),
        *_section("DESCRIPTION", _paragraphs(main.description(verb))),
        *_section("OPTIONS", _options(parser)),
        *_actions(parser),
    ]
    if parser.epilog:
        lines += [".SH EXAMPLES", ".nf", *map(_text, parser.epilog.splitlines()[1:]), ".fi"]
    status = [line for code, text in STATUS for line in (".TP", f".B {code}", _text(text))]
    lines += _section("EXIT STATUS", status)
    others = ", ".join(f"fairlead-{other}(1)" for other in main.VERBS if other != verb)
    lines += _section("SEE ALSO", [_text(f"fairlead(1), {others}, srun(1)")])
    return "\n".join(lines) + "\n"


def overview() -> str:
    """Return the page of the command itself."""
    lines = [
        f'.TH FAIRLEAD 1 "" "fairlead {fairlead.__version__}" "Fairlead"',
        *_section("NAME", ["fairlead \\- run OCI containers under Slurm and without"]),
        *_section("SYNOPSIS", [".B fairlead", _text("VERB [OPTION...] [ARGUMENT...]")]),
        ".SH VERBS",
    ]
    for verb, text in main.VERBS.items():
        lines += [".TP", f".BR fairlead\\-{verb} (1)", _text(text)]
    lines += _section(
        "NOTES", [line for part in main.EPILOG.splitlines() for line in (_text(part), ".br")]
    )
    return "\n".join(lines) + "\n"


def _section(title: str, lines: list[str]) -> list[str]:
    return [f".SH {title}", *lines]


def _text(text: str) -> str:
    """Return text with man(7)'s own characters made plain."""
    plain = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{plain}" if plain.startswith(".") else plain


def _paragraphs(text: str) -> list[str]:
    parts = [" ".join(part.split()) for part in text.split("\n\n")]
    return [line for part in parts for line in (".PP", _text(part))]


def _synopsis(parser: argparse.ArgumentParser) -> str:
    return " ".join(parser.format_usage().removeprefix("usage: ").split())


def _options(parser: argparse.ArgumentParser) -> list[str]:
    lines: list[str] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            continue
        value = action.metavar if isinstance(action.metavar, str) else None
        if action.choices:
            value = value or "{" + ",".join(map(str, action.choices)) + "}"
        if action.option_strings:
            names = ", ".join(f"\\fB{_text(name)}\\fR" for name in action.option_strings)
            takes = action.nargs != 0
            shown = f"{names} \\fI{_text(value or action.dest.upper())}\\fR" if takes else names
        else:
            shown = f"\\fI{_text(value or action.dest.upper())}\\fR"
        lines += [".TP", shown, _text(action.help or "")]
    return lines


def _actions(parser: argparse.ArgumentParser) -> list[str]:
    """Return a part for each action of a verb that has some, with its own options."""
    lines: list[str] = []
    for group in parser._actions:
        if isinstance(group, argparse._SubParsersAction):
            for name, action in group.choices.items():
                lines += [f".SH {name.upper()}", _text(_synopsis(action))]
                lines += _paragraphs(action.description or "")
                lines += _options(action)[3:]  # without --help, which every action has
    return lines


def write(directory: str) -> None:
    """Write every page into a directory."""
    os.makedirs(directory, exist_ok=True)
    pages = {"fairlead": overview(), **{f"fairlead-{verb}": page(verb) for verb in main.VERBS}}
    for name, text in pages.items():
        with open(os.path.join(directory, f"{name}.1"), "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    write(sys.argv[1])
