"""Print a script that completes Fairlead's words in bash, zsh or fish.

It is made from the same parsers as ``--help``: verbs, actions, options and their choices; names of
images come from the store.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

from fairlead import config as settings
from fairlead.cli import main

EPILOG = """\
examples:
  fairlead completion bash > ~/.local/share/bash-completion/completions/fairlead
  fairlead completion zsh > ~/.zfunc/_fairlead
  fairlead completion fish > ~/.config/fish/completions/fairlead.fish
"""
_IMAGES = 'fairlead images 2>/dev/null | while read -r name rest; do echo "$name"; done'


class Option(NamedTuple):
    """One option, or a positional argument where names is empty."""

    names: tuple[str, ...]
    help: str
    choices: tuple[str, ...]
    takes: bool  # a value


class Words(NamedTuple):
    """What can follow a verb, or an action of one (``store gc``)."""

    name: str
    help: str
    options: tuple[Option, ...]
    plain: tuple[str, ...]  # words that may stand alone: actions, choices
    image: bool  # whether an image's name may


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the argument."""
    parser.add_argument("shell", choices=sorted(_SHELLS), help="for which shell")


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Print the script."""
    print(_SHELLS[arguments.shell](all_words()), end="")
    return 0


def all_words() -> tuple[Words, ...]:
    """Return what every verb takes; an action stands as ``VERB ACTION``."""
    found = []
    for verb, text in main.VERBS.items():
        parser = main.parser_for(verb)
        found.append(_words(verb, text, parser))
        for group in parser._actions:
            if isinstance(group, argparse._SubParsersAction):
                for name, action in group.choices.items():
                    found.append(_words(f"{verb} {name}", action.description or "", action))
    return tuple(found)


def _words(name: str, text: str, parser: argparse.ArgumentParser) -> Words:
    options: list[Option] = []
    plain: list[str] = []
    image = False
    for action in parser._actions:
        choices = tuple(map(str, action.choices or ()))
        if isinstance(action, argparse._SubParsersAction) or not action.option_strings:
            plain += choices
            image = image or action.metavar == "IMAGE"
        else:
            names, words = tuple(action.option_strings), (action.help or "")
            options.append(Option(names, words, choices, action.nargs != 0))
    return Words(name, " ".join(text.split()), tuple(options), tuple(plain), image)


# -- bash and zsh ----------------------------------------------------------------------------------

_BASH = """\
# bash completion for fairlead; made by: fairlead completion bash
_fairlead() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}
    local verb=${COMP_WORDS[1]} options= words= choices=
    COMPREPLY=()
    if [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W "@VERBS@" -- "$current"))
        return
    fi
    case "$verb ${COMP_WORDS[2]}" in
@CASES@
    esac
    if [[ -n $choices ]]; then
        COMPREPLY=($(compgen -W "$choices" -- "$current"))
    elif [[ $current == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$current"))
    else
        COMPREPLY=($(compgen -W "$words" -- "$current") $(compgen -f -- "$current"))
    fi
}
complete -o filenames -F _fairlead fairlead
"""


def _bash(words: tuple[Words, ...]) -> str:
    # An action's case comes before its verb's, which would match it too.
    cases = [_bash_case(item) for item in sorted(words, key=lambda item: -item.name.count(" "))]
    text = _BASH.replace("@CASES@", "\n".join(cases))
    return text.replace("@VERBS@", " ".join(main.VERBS))


def _bash_case(item: Words) -> str:
    pattern = f'"{item.name}"' if " " in item.name else f'"{item.name} "*'
    names = " ".join(name for option in item.options for name in option.names)
    plain = " ".join(item.plain) + (f" $({_IMAGES})" if item.image else "")
    lines = [f"    {pattern})", f'        options="{names}"', f'        words="{plain}"']
    chosen = [option for option in item.options if option.choices]
    if chosen:
        lines.append("        case $previous in")
        for option in chosen:
            choices = " ".join(option.choices)
            lines.append(f'            {"|".join(option.names)}) choices="{choices}" ;;')
        lines.append("        esac")
    return "\n".join([*lines, "        ;;"])


def _zsh(words: tuple[Words, ...]) -> str:
    # zsh runs bash's completions; what it has to be told is that this file is one of its own.
    return (
        "#compdef fairlead\n"
        "autoload -U +X bashcompinit && bashcompinit\n"
        f"{_bash(words)}"
        '_bash_complete -o filenames -F _fairlead "$@"\n'
    )


# -- fish ------------------------------------------------------------------------------------------


def _fish(words: tuple[Words, ...]) -> str:
    lines = ["# fish completion for fairlead; made by: fairlead completion fish"]
    for item in words:
        verb, _, action = item.name.partition(" ")
        if not action:
            first = "complete -c fairlead -n __fish_use_subcommand -f"
            lines.append(f"{first} -a {verb} -d {_quoted(item.help)}")
        where = f"__fish_seen_subcommand_from {verb}"
        where += f"; and __fish_seen_subcommand_from {action}" if action else ""
        begin = f"complete -c fairlead -n {_quoted(where)}"
        if item.plain:
            lines.append(f"{begin} -f -a {_quoted(' '.join(item.plain))}")
        if item.image:
            lines.append(f"{begin} -a {_quoted(f'({_FISH_IMAGES})')}")
        lines += [f"{begin} {_fish_option(option)}" for option in item.options]
    return "\n".join(lines) + "\n"


_FISH_IMAGES = "fairlead images 2>/dev/null | string match -r '^\\S+'"


def _fish_option(option: Option) -> str:
    names = [
        f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names
    ]
    takes = "-r" if option.takes else ""
    choices = f"-f -a {_quoted(' '.join(option.choices))}" if option.choices else ""
    return " ".join(filter(None, (*names, takes, choices, f"-d {_quoted(option.help)}")))


def _quoted(text: str) -> str:
    plain = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{plain}'"


_SHELLS = {"bash": _bash, "fish": _fish, "zsh": _zsh}
