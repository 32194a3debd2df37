"""The site's policy in real steps: which images may run is decided before a layer moves, in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import jobs
import pytest
from installation import SITE_FILE, plugin_words
from jobs import REGISTRY, SMALL, error_lines, output, srun

DROP_INS = f"{os.path.dirname(SITE_FILE)}/fairlead.d"
PLACE = f"/var/tmp/fairlead-policy-{os.getpid()}"
NAME = f"{REGISTRY}/demo/policy-{os.getpid()}"
HINT = "(use an image that is signed as the file named requires, or ask who publishes it)"


@pytest.fixture(autouse=True)
def _no_node_is_drained():
    yield
    assert jobs.nodes_out_of_service() == []


@pytest.fixture(scope="module")
def home():
    """A signer's home, and the site's policy: images of ours are signed by that key."""
    os.makedirs(f"{PLACE}/lookaside")
    os.makedirs(f"{PLACE}/registries.d")
    os.mkdir(f"{PLACE}/gnupg", 0o700)
    gpg("--passphrase", "", "--quick-gen-key", "site@example.org", "rsa2048", "sign", "never")
    gpg("-o", f"{PLACE}/key.gpg", "--export")
    with open(f"{PLACE}/registries.d/site.yaml", "w", encoding="utf-8") as file:
        place = f"file://{PLACE}/lookaside"
        file.write(f"default-docker: {{lookaside: '{place}', lookaside-staging: '{place}'}}\n")
    signed = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": f"{PLACE}/key.gpg"}
    table = {
        "default": [{"type": "insecureAcceptAnything"}],
        "transports": {
            "docker": {NAME: [signed], f"{REGISTRY}/demo/rejected": [{"type": "reject"}]}
        },
    }
    with open(f"{PLACE}/policy.json", "w", encoding="utf-8") as file:
        json.dump(table, file)
    yield PLACE
    subprocess.run(["gpgconf", "--homedir", f"{PLACE}/gnupg", "--kill", "all"], check=False)
    shutil.rmtree(PLACE)


@pytest.fixture
def settings(home):
    """Let a drop-in of the site's hold more lines than where its policy is."""
    path = f"{DROP_INS}/50-test.toml"

    def write(text=""):
        os.makedirs(DROP_INS, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f'containers_config = "{home}"\n{text}')
        return path

    write()
    yield write
    os.unlink(path)


def gpg(*words):
    command = ["gpg", "--homedir", f"{PLACE}/gnupg", "--batch", "--pinentry-mode", "loopback"]
    subprocess.run([*command, *words], check=True, capture_output=True)


def copy(*words):
    """Push the small image under the test's name."""
    tls = ("--src-tls-verify=false", "--dest-tls-verify=false")
    names = (f"docker://{SMALL}", f"docker://{NAME}:1")
    subprocess.run(
        ["skopeo", "--registries.d", f"{PLACE}/registries.d", "copy", "-q", *tls, *words, *names],
        env={**os.environ, "GNUPGHOME": f"{PLACE}/gnupg"},
        check=True,
    )


def refused(result):
    """Return the one line of a step that must have been refused."""
    assert result.returncode == 125, result
    (line,) = error_lines(result)
    return line


def test_image_without_the_signature_is_refused_until_it_has_one(settings):
    copy()
    line = refused(srun("-N2", "-n2", "true", container=f"{NAME}:1"))
    assert f"[signature]: {NAME}:1@sha256:" in line
    assert f": {PLACE}/policy.json: transports: docker: '{NAME}'" in line
    assert "requires a signature (signedBy), and sha256:" in line
    assert line.endswith(f" has none {HINT}")
    copy("--sign-by", "site@example.org")
    assert output(srun("-N2", "-n2", "echo", "ran", container=f"{NAME}:1")) == "ran\nran\n"
    with plugin_words():  # a store of the user's own
        assert output(srun("-n1", "echo", "ran", container=f"{NAME}:1")) == "ran\n"


def test_rejected_image_and_registry_are_refused_by_the_file(settings):
    name = f"{REGISTRY}/demo/rejected:1"
    assert refused(srun("-n1", "true", container=name)).endswith(
        f"[policy]: {name}: is rejected by {PLACE}/policy.json: transports: docker: "
        f"'{REGISTRY}/demo/rejected' (use what the file named allows, or ask the administrator)"
    )
    file = settings('allowed_registries = ["hub.example.org", "*.example.com"]\n')
    assert refused(srun("-n1", "true", container=SMALL)).endswith(
        f"[policy]: {SMALL}: {file} allows images from hub.example.org, *.example.com only "
        "(use an image from there, or ask the administrator)"
    )


def test_job_s_variables_and_options_bend_no_lock(settings):
    file = settings('locked = ["mpi", "writable"]\nsite_env = ["SITE=here"]\n')
    assert output(srun("-n1", "sh", "-c", "echo $SITE", container=SMALL)) == "here\n"
    line = refused(srun("-n1", "--container-mpi=image", "true", container=SMALL))
    assert line.endswith(f"[config]: the launch: mpi is locked by {file} (leave it out)")
    line = refused(srun("-n1", "true", container=SMALL, FAIRLEAD_WRITABLE="no"))
    assert line.endswith(
        f"[config]: $FAIRLEAD_WRITABLE: writable is locked by {file} (leave it out)"
    )
    line = refused(srun("-n1", "true", container=SMALL, FAIRLEAD_SITE_CONFIG="/dev/null"))
    assert line.endswith(
        f"[config]: $FAIRLEAD_SITE_CONFIG: {file} sets containers_config, which binds (leave it out)"
    )
