"""``fairlead completion``: the shells themselves say what they would offer."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from images import image, layer, push

from fairlead.cli import completion, main


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("completion")
    for shell, function in completion._SHELLS.items():
        (place / f"fairlead.{shell}").write_text(function(completion.all_words()))
    return place


def asked(shell: str, script: str, **variables: str) -> set[str]:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run(
        [program, "-c", script], env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert done.stderr == ""
    return {line.partition("\t")[0] for line in done.stdout.splitlines()}


def bash(scripts: Path, *words: str, **variables: str) -> set[str]:
    listed = " ".join(f"'{word}'" for word in ("fairlead", *words))
    return asked(
        "bash",
        f". {scripts}/fairlead.bash; COMP_WORDS=({listed}); COMP_CWORD={len(words)};"
        ' _fairlead; printf "%s\\n" "${COMPREPLY[@]}"',
        **variables,
    )


def fish(scripts: Path, *words: str, **variables: str) -> set[str]:
    line = " ".join(("fairlead", *words))
    return asked("fish", f"source {scripts}/fairlead.fish; complete -C '{line}'", **variables)


@pytest.mark.parametrize("shell", [bash, fish])
def test_verbs_actions_options_and_choices_are_offered(shell, scripts) -> None:
    assert shell(scripts, "ins") == {"inspect"}
    assert set(main.VERBS) <= shell(scripts, "")
    assert shell(scripts, "run", "--env") == {"--env", "--env-file", "--environment"}
    assert shell(scripts, "run", "--mpi", "h") == {"host"}
    assert {"ls", "df", "check", "gc"} <= shell(scripts, "store", "")
    assert shell(scripts, "store", "gc", "--dry") == {"--dry-run"}
    assert {"bash", "fish", "zsh"} <= shell(scripts, "completion", "")


@pytest.mark.parametrize("shell", [bash, fish])
def test_images_of_the_store_are_offered(shell, scripts, bench, registry, tmp_path) -> None:
    name = f"{registry}/completion/box:1"
    push(registry, "completion/box", "1", image([layer({"a": b"1"})]))
    bench.pull(name)
    program = tmp_path / "fairlead"
    program.write_text(f'#!/bin/sh\nexec {" ".join(bench.command())} "$@"\n')
    program.chmod(0o755)
    search = {**bench.full(), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert name in shell(scripts, "run", "", **search)


def test_zsh_takes_the_script_as_one_of_its_own(scripts, tmp_path) -> None:
    shutil.copy(scripts / "fairlead.zsh", tmp_path / "_fairlead")
    script = (
        f"fpath=({tmp_path} $fpath); autoload -U compinit; compinit -u -d {tmp_path}/dump;"
        " echo $_comps[fairlead]; autoload -U bashcompinit; bashcompinit;"
        f" . {scripts}/fairlead.bash;"
        " f() { emulate -L sh; COMP_WORDS=(fairlead store gc --dry); COMP_CWORD=3; _fairlead;"
        " print -rl -- ${COMPREPLY[@]}; }; f"
    )
    offered = asked("zsh", script)  # zsh itself takes those that begin with what was typed
    assert {"_fairlead", "--dry-run"} <= offered
    assert not {"pull", "--repair"} & offered


def test_an_unknown_shell_is_refused(bench) -> None:
    line = bench.line("completion", "tcsh")
    assert line == (
        "fairlead: error [usage]: argument shell: invalid choice: 'tcsh' (choose from 'bash', "
        "'fish', 'zsh') (see fairlead completion --help)"
    )
