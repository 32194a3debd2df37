"""Credentials: which file wins, which entry in it, and what is refused."""

from __future__ import annotations

import base64
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fairlead import errors
from fairlead.image import auth, netrc


def entry(user, password="pw"):
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def home(tmp_path):
    return tmp_path


def write(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(table if isinstance(table, str) else json.dumps(table))


def environ(home, **more):
    return {"HOME": str(home), "PATH": f"{home}/bin:/usr/bin:/bin", **more}


def found(home, registry="r.io", repository="a/b", user=None, **more):
    return auth.credentials(registry, repository, environ(home, **more), user=user)


def test_nothing_anywhere_is_none(home):
    assert found(home) is None
    assert auth.credentials("r.io", "a", {}) is None


def test_files_are_asked_in_order(home):
    write(home / ".docker/config.json", {"auths": {"r.io": entry("docker")}})
    assert found(home).username == "docker"
    write(home / "elsewhere/config.json", {"auths": {"r.io": entry("docker-config")}})
    more = {"DOCKER_CONFIG": str(home / "elsewhere")}
    assert found(home, **more).username == "docker-config"
    write(home / "run/containers/auth.json", {"auths": {"r.io": entry("runtime")}})
    more["XDG_RUNTIME_DIR"] = str(home / "run")
    assert found(home, **more).username == "runtime"
    write(home / "mine.json", {"auths": {"r.io": entry("explicit")}})
    assert found(home, **more, REGISTRY_AUTH_FILE=str(home / "mine.json")).username == "explicit"


def test_most_specific_path_wins(home):
    auths = {
        "r.io": entry("host"),
        "r.io/a": entry("space"),
        "r.io/a/b": entry("repo"),
        "r.io/a/bc": entry("no"),
    }
    write(home / ".docker/config.json", {"auths": auths})
    assert found(home).username == "repo"
    assert found(home, repository="a/c").username == "space"
    assert found(home, repository="ab").username == "host"


@pytest.mark.parametrize("key", ["https://r.io", "http://r.io/", "https://r.io/v1/", "r.io/v2"])
def test_old_keys_are_understood(home, key):
    write(home / ".docker/config.json", {"auths": {key: entry("old")}})
    assert found(home).username == "old"


@pytest.mark.parametrize(
    "key", ["https://index.docker.io/v1/", "docker.io", "registry-1.docker.io"]
)
def test_docker_hub_has_several_names(home, key):
    write(home / ".docker/config.json", {"auths": {key: entry("hub")}})
    assert found(home, registry="docker.io", repository="library/x").username == "hub"


def test_port_is_part_of_the_registry(home):
    write(home / ".docker/config.json", {"auths": {"r.io:5000": entry("port")}})
    assert found(home) is None
    assert found(home, registry="r.io:5000").username == "port"


def test_user_selects_among_logins(home):
    write(home / ".docker/config.json", {"auths": {"r.io/a": entry("alice"), "r.io": entry("bob")}})
    assert found(home, user="bob").username == "bob"
    assert found(home, user="carol") is None


def test_identity_token_is_found(home):
    write(home / ".docker/config.json", {"auths": {"r.io": {"identitytoken": "tok"}}})
    assert found(home).identity_token == "tok"


def test_empty_entry_of_a_credential_store_is_skipped(home):
    write(home / ".docker/config.json", {"auths": {"r.io": {}}})
    assert found(home) is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"auths": {"r.io": {"auth": "c2VjcmV0', "is not valid JSON"),
        ("[]", "is not a JSON object"),
        ('{"auths": []}', "auths is not an object"),
        ('{"auths": {"r.io": []}}', "is not an object"),
        ('{"auths": {"r.io": {"auth": "!!!"}}}', "auth is not base64 of USER:PASSWORD"),
        ('{"auths": {"r.io": {"auth": "c2VjcmV0"}}}', "auth is not base64 of USER:PASSWORD"),
        (" " * (1 << 20) + "{}", "is larger than 1048576 bytes"),
    ],
)
def test_broken_file_is_named_and_its_secrets_are_not(home, content, why):
    write(home / ".docker/config.json", content)
    with pytest.raises(errors.ConfigError) as caught:
        found(home)
    assert why in caught.value.message
    assert str(home / ".docker/config.json") in caught.value.message
    assert "secret" not in caught.value.line()
    assert "c2VjcmV0" not in caught.value.line()


def test_login_with_a_newline_is_refused(home):
    write(home / ".docker/config.json", {"auths": {"r.io": entry("a\r\nX-Evil: 1")}})
    with pytest.raises(errors.ConfigError, match="control character"):
        found(home)


def test_fifo_is_refused_without_waiting(home):
    (home / ".docker").mkdir()
    os.mkfifo(home / ".docker/config.json")
    with pytest.raises(errors.ConfigError, match="is not a regular file"):
        found(home)


def test_secret_is_in_no_repr(home):
    write(home / ".docker/config.json", {"auths": {"r.io": entry("alice", "hunter2")}})
    assert "hunter2" not in repr(found(home))
    assert "hunter2" not in f"{found(home)}"


# -- helpers ---------------------------------------------------------------------------------------


def helper(home, script):
    path = home / "bin/docker-credential-test"
    write(path, f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_helper_is_asked_for_its_registry(home):
    helper(home, 'read s; echo "{\\"Username\\":\\"u-$s\\",\\"Secret\\":\\"p\\"}"')
    write(
        home / ".docker/config.json",
        {"credHelpers": {"r.io": "test"}, "auths": {"r.io": entry("x")}},
    )
    assert found(home)[:2] == ("u-r.io", "p")
    assert found(home, registry="other.io") is None


def test_store_is_asked_last_and_under_hubs_old_name(home):
    helper(home, 'read s; echo "{\\"Username\\":\\"$s\\",\\"Secret\\":\\"p\\"}"')
    write(home / ".docker/config.json", {"credsStore": "test", "auths": {"r.io": entry("file")}})
    assert found(home).username == "file"
    assert found(home, registry="docker.io").username == "https://index.docker.io/v1/"


def test_helpers_of_registries_conf_are_asked_in_their_order(home):
    helper(home, 'read s; echo "{\\"Username\\":\\"u-$s\\",\\"Secret\\":\\"p\\"}"')
    write(home / ".docker/config.json", {"auths": {"r.io": entry("file")}})

    def asked(*helpers, user=None):
        found = auth.credentials("r.io", "a/b", environ(home), user=user, helpers=helpers)
        return found and found.username

    assert asked() == "file"
    assert asked("test") == "u-r.io"
    assert asked("test", "containers-auth.json") == "u-r.io"
    assert asked("containers-auth.json", "test") == "file"
    assert asked("test", "containers-auth.json", user="file") == "file"
    assert asked("test", user="file") is None


def test_token_of_a_helper_is_an_identity_token(home):
    helper(home, 'echo "{\\"Username\\":\\"<token>\\",\\"Secret\\":\\"tok\\"}"')
    write(home / ".docker/config.json", {"credsStore": "test"})
    assert found(home).identity_token == "tok"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo backend is locked; exit 1", "backend is locked; going on without a login for r.io"),
        ("exit 3", "exit status 3; going on"),
        ("echo nonsense", "is not the right JSON"),
        ("yes | head -c 200000", "its answer is too long"),
    ],
)
def test_failing_helper_is_a_warning(home, capfd, script, words):
    helper(home, script)
    write(home / ".docker/config.json", {"credsStore": "test"})
    assert found(home) is None
    assert words in capfd.readouterr().err


def test_helper_without_an_entry_is_silent(home, capfd):
    helper(home, "echo credentials not found in native keychain; exit 1")
    write(home / ".docker/config.json", {"credsStore": "test"})
    assert found(home) is None
    assert capfd.readouterr().err == ""


def test_missing_helper_is_a_warning(home, capfd):
    write(home / ".docker/config.json", {"credsStore": "absent"})
    assert found(home) is None
    assert "docker-credential-absent: not found in PATH" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["../evil", "a/b", "-x", "a b"])
def test_helper_with_a_path_is_refused(home, name):
    write(home / ".docker/config.json", {"credsStore": name})
    with pytest.raises(errors.ConfigError, match="not a name"):
        found(home)


# -- enroot's .credentials -------------------------------------------------------------------------

NETRC = """\
# comment
machine r.io login ada password "pass \\"word#1"
machine r.io login bob password b#2
machine auth.docker.io
  login hub
  password secret
machine authn.nvidia.com login $oauthtoken password nv
macdef init
machine evil.io login x password y

machine gcr.io login token password $(gcloud auth print-access-token)
machine r.io:5000 login port password p
machine half.io login only
default login any password one
"""


@pytest.mark.parametrize(
    ("registry", "user", "login"),
    [
        ("r.io", None, ("ada", 'pass "word#1')),
        ("r.io", "bob", ("bob", "b#2")),
        ("r.io", "eve", None),
        ("r.io:5000", None, ("port", "p")),
        ("r.io:6000", None, ("ada", 'pass "word#1')),
        ("docker.io", None, ("hub", "secret")),
        ("nvcr.io", None, ("$oauthtoken", "nv")),
        ("evil.io", None, None),
        ("gcr.io", None, None),
        ("half.io", None, None),
        ("other.io", None, None),
    ],
)
def test_enroot_login(home, capfd, registry, user, login):
    path = home / ".config/enroot/.credentials"
    write(path, NETRC)
    got = found(home, registry, user=user)
    assert (got and (got.username, got.password)) == login
    said = capfd.readouterr().err
    if registry == "gcr.io":
        assert said == (
            f"fairlead: warning: {path}:11: holds $(...), which is not run; going on without a "
            "login for gcr.io (fairlead login keeps one)\n"
        )
    else:
        assert said == ""


def test_enroot_login_is_the_last_and_enroot_config_path_leads_to_it(home):
    write(home / "e/.credentials", "machine r.io login enroot password x")
    assert found(home, ENROOT_CONFIG_PATH=f"{home}/e").username == "enroot"
    write(home / ".docker/config.json", {"auths": {"r.io": entry("docker")}})
    assert found(home, ENROOT_CONFIG_PATH=f"{home}/e").username == "docker"


def test_enroot_file_that_is_none_is_an_error_and_shows_no_secret(home):
    (home / ".config/enroot/.credentials").mkdir(parents=True)
    with pytest.raises(errors.ConfigError) as caught:
        found(home)
    assert caught.value.message == f"{home}/.config/enroot/.credentials: is not a regular file"
    assert "secret" not in repr(list(netrc.parse(NETRC)))


@given(some.text(max_size=100))
def test_any_text_is_a_netrc_file(text):
    assert all(isinstance(login.line, int) for login in netrc.parse(text))
