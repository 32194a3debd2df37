"""``fairlead login`` and ``logout``: verified, kept where podman looks, in one private file."""

from __future__ import annotations

import base64
import json
import os
import subprocess

import pytest
from test_login import LOGIN

USER, PASSWORD = LOGIN


def log_in(bench, host, password=PASSWORD, *words, **variables):
    return subprocess.run(
        bench.command("login", "--username", USER, "--password-stdin", *words, host),
        env=bench.full(**variables),
        input=f"{password}\n",
        capture_output=True,
        text=True,
        timeout=120,
    )


def auth_file(bench):
    return bench.home / ".config/containers/auth.json"


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
def test_a_login_is_verified_and_kept_for_later_pulls(bench, faulty, scheme):
    faulty.scheme, faulty.login = scheme, LOGIN
    done = log_in(bench, faulty.host)
    path = auth_file(bench)
    line = f"fairlead: logged in to {faulty.host} as {USER}; kept in {path}\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, "", line)
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    assert json.loads(path.read_text()) == {"auths": {faulty.host: {"auth": auth}}}
    assert path.stat().st_mode & 0o7777 == 0o600
    assert os.listdir(path.parent) == ["auth.json"]
    asked = [r.path for r in faulty.requests if r.path.startswith("/token")]
    assert asked == (["/token?service=tests"] if scheme == "bearer" else [])


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
def test_a_refused_login_is_not_kept(bench, faulty, scheme):
    faulty.scheme, faulty.login = scheme, LOGIN
    done = log_in(bench, faulty.host, "wrong")
    assert done.returncode == 125
    assert done.stderr.startswith(f"fairlead: error [auth]: {faulty.host}")
    assert "wrong" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert not auth_file(bench).exists()


def test_podman_reads_what_is_kept_and_the_other_way_round(bench, private_registry):
    path = bench.home / "auth.json"
    variables = {"REGISTRY_AUTH_FILE": str(path)}
    assert log_in(bench, private_registry, **variables).returncode == 0
    skopeo = ["skopeo", "login", "--authfile", str(path), "--get-login", private_registry]
    assert subprocess.check_output(skopeo, text=True) == f"{USER}\n"
    done = bench.run("logout", private_registry, **variables)
    line = f"fairlead: logged out of {private_registry}; it was in {path}\n"
    assert (done.returncode, done.stderr) == (0, line)
    assert json.loads(path.read_text()) == {"auths": {}}


def test_the_file_that_has_a_login_for_this_registry_is_changed_and_keeps_the_rest(
    bench, faulty, tmp_path
):
    faulty.scheme, faulty.login = "basic", LOGIN
    real = tmp_path / "dotfiles.json"
    before = {"auths": {f"https://{faulty.host}/v2/": {"auth": "b2xkOm9sZA=="}, "other": {}}}
    real.write_text(json.dumps({**before, "credHelpers": {"x": "y"}}))
    run = bench.home / "run/containers"
    run.mkdir(parents=True)
    (run / "auth.json").symlink_to(real)
    done = log_in(bench, faulty.host, XDG_RUNTIME_DIR=str(run.parent))
    assert done.returncode == 0, done.stderr
    table = json.loads(real.read_text())
    assert sorted(table["auths"]) == sorted(["other", faulty.host])
    assert table["credHelpers"] == {"x": "y"}
    assert (run / "auth.json").is_symlink()
    assert not auth_file(bench).exists()


def test_a_credential_helper_gets_the_login_and_gives_it_up(bench, faulty, tmp_path):
    faulty.scheme, faulty.login = "basic", LOGIN
    helper = tmp_path / "bin/docker-credential-notes"
    helper.parent.mkdir()
    kept = tmp_path / "kept"
    helper.write_text(
        f"#!/bin/sh\ncase $1 in store) cat > {kept};; erase) cat > {kept}.gone; rm {kept};;"
        f" get) cat {kept};; esac\n"
    )
    helper.chmod(0o755)
    path = auth_file(bench)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"credHelpers": {faulty.host: "notes"}}))
    search = {"PATH": f"{helper.parent}:{os.environ['PATH']}"}
    done = log_in(bench, faulty.host, **search)
    assert done.stderr.endswith(f"as {USER}; kept in {helper}\n")
    assert json.loads(kept.read_text()) == {
        "ServerURL": faulty.host,
        "Username": USER,
        "Secret": PASSWORD,
    }
    assert PASSWORD not in path.read_text()
    assert bench.run("logout", faulty.host, **search).returncode == 0
    assert (tmp_path / "kept.gone").read_text() == faulty.host


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("login", "-u", "a", "--password-stdin", "ubuntu"),
            "error [usage]: 'ubuntu': is no registry (write HOST[:PORT])",
        ),
        (
            ("login", "-u", "a", "--password-stdin", "127.0.0.1:1/x"),
            "error [usage]: '127.0.0.1:1/x': is no registry (write HOST[:PORT])",
        ),
        (
            ("login", "--password-stdin", "127.0.0.1:1"),
            "error [usage]: login to 127.0.0.1:1: no user name (give one with --username NAME)",
        ),
        (
            ("login", "-u", "a", "127.0.0.1:1"),
            (
                "error [usage]: login to 127.0.0.1:1: no terminal to ask for the password"
                " (use --password-stdin)"
            ),
        ),
        (
            ("login", "-u", "a", "--password-stdin", "127.0.0.1:1"),
            "error [usage]: login to 127.0.0.1:1: the password is empty (see fairlead --help)",
        ),
        (
            ("logout", "127.0.0.1:1"),
            "error [auth]: 127.0.0.1:1: there is no login to forget (see fairlead login --help)",
        ),
    ],
)
def test_what_is_missing_is_said(bench, words, line):
    done = subprocess.run(
        bench.command(*words), env=bench.full(), stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (125, f"fairlead: {line}\n")


def test_a_place_that_cannot_be_written_is_named(bench, faulty, tmp_path):
    faulty.scheme, faulty.login = "basic", LOGIN
    (tmp_path / "file").write_text("")
    path = tmp_path / "file/auth.json"
    done = log_in(bench, faulty.host, REGISTRY_AUTH_FILE=str(path))
    line = f"error [config]: {path}: File exists (check its place)"
    assert (done.returncode, done.stderr) == (125, f"fairlead: {line}\n")
