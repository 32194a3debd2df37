"""Images that buildah and podman build and skopeo moves run in steps; what a step saves, they read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jobs
import pytest
import sheaf
from jobs import REGISTRY, USER
from opencontainers.image.v1 import Image, Manifest

IMAGE = f"{REGISTRY}/demo/tools"
DOCKERFILE = """\
FROM scratch
COPY bin /bin
COPY --chmod=755 entry /entry
ENV PATH=/bin FROM=buildah
WORKDIR /not/in/a/layer
RUN ["/bin/sh", "-c", "echo built > /made && rm /bin/od"]
USER 4711:4711
ENTRYPOINT ["/entry"]
CMD ["default"]
LABEL org.fairlead.test="by buildah"
"""
SHOWN = "echo $FROM; pwd; cat /made; test -e /bin/od || echo removed; id -u"
EXPECTED = ["buildah", "/not/in/a/layer", "built", "removed", str(USER.pw_uid)]


class Tools:
    """buildah, podman and skopeo with a store of their own, and nothing of this machine's settings."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.store = (
            "--root",
            f"{place}/root",
            "--runroot",
            f"{place}/run",
            "--storage-driver",
            "vfs",
        )
        (place / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self.environ = {
            **os.environ,
            "TMPDIR": str(place),
            "BUILDAH_ISOLATION": "chroot",
            "HOME": str(place),
        }

    def run(self, *words: str) -> str:
        # Alone with its mounts: they leave one behind on the store that they write.
        command = ("unshare", "--mount", *words)
        done = subprocess.run(
            command, env=self.environ, cwd=self.place, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def buildah(self, verb: str, *words: str) -> str:
        policy = (
            ("--signature-policy", f"{self.place}/policy.json")
            if verb in ("bud", "push", "from", "pull")
            else ()
        )
        return self.run("buildah", *self.store, verb, *policy, *words)

    def skopeo(self, *words: str) -> str:
        return self.run("skopeo", "--policy", f"{self.place}/policy.json", *words)


@pytest.fixture(scope="module")
def tools() -> Iterator[Tools]:
    place = Path(tempfile.mkdtemp(prefix="fairlead-tools-", dir="/var/tmp"))
    place.chmod(0o755)
    made = Tools(place)
    binary = shutil.which("busybox") or "/bin/busybox"
    (place / "bin").mkdir()
    shutil.copy(binary, place / "bin/busybox")
    for name in ("sh", "cat", "echo", "id", "od", "pwd", "rm", "test", "touch"):
        (place / "bin" / name).symlink_to("busybox")
    (place / "entry").write_text('#!/bin/sh\necho "entry $*"\n')
    (place / "Dockerfile").write_text(DOCKERFILE)
    for kind in ("oci", "docker"):
        made.buildah("bud", "--quiet", "--format", kind, "--layers", "-t", f"built:{kind}", ".")
        made.buildah(
            "push", "--quiet", "--tls-verify=false", f"built:{kind}", f"docker://{IMAGE}:{kind}"
        )
    yield made
    # Not by shutil: an image's own directories may have any mode.
    subprocess.run(["rm", "-rf", "--one-file-system", str(place)], check=True)


@pytest.fixture(scope="module")
def places(tools: Tools) -> dict[str, str]:
    """One image in every form that the tools write, by name."""
    top, source = tools.place, f"docker://{IMAGE}:oci"
    plain = ("copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false")
    forms = {
        "zstd": ("--dest-compress-format=zstd", source, f"docker://{IMAGE}:zstd"),
        "schema 2": ("--format=v2s2", source, f"docker://{IMAGE}:v2s2"),
        "OCI layout": (source, f"oci:{top}/layout:1"),
        "OCI archive": (source, f"oci-archive:{top}/oci.tar:1"),
        "docker archive": (source, f"docker-archive:{top}/docker.tar:box:1"),
    }
    for words in forms.values():
        tools.skopeo(*plain, *words)
    tools.buildah(
        "push",
        "--quiet",
        "--compression-format=zstd",
        "--tls-verify=false",
        "built:oci",
        f"docker://{IMAGE}:buildah-zstd",
    )
    return {
        "buildah, OCI": f"{IMAGE}:oci",
        "buildah, docker": f"{IMAGE}:docker",
        "buildah, zstd": f"{IMAGE}:buildah-zstd",
        "skopeo, zstd": f"{IMAGE}:zstd",
        "skopeo, schema 2": f"{IMAGE}:v2s2",
        "skopeo, OCI layout": f"oci:{top}/layout:1",
        "skopeo, OCI archive": f"oci-archive:{top}/oci.tar:1",
        "skopeo, docker archive": f"docker-archive:{top}/docker.tar:box:1",
    }


FORMS = ("buildah, OCI", "buildah, docker", "buildah, zstd", "skopeo, zstd", "skopeo, schema 2", "skopeo, OCI layout", "skopeo, OCI archive", "skopeo, docker archive")  # fmt: skip


@pytest.fixture(scope="module")
def done(places: dict[str, str]) -> dict[str, sheaf.Done]:
    """How a step, and a step with the entrypoint, ended in each form."""
    commands = {}
    for name in FORMS:
        container = f"--container={places[name]}"
        commands[name] = sheaf.step(container, "sh", "-c", SHOWN)
        commands[f"{name}: entrypoint"] = sheaf.step(container, "--container-entrypoint", "a", "b")
    return sheaf.run(commands)


@pytest.mark.parametrize("form", FORMS)
def test_image_of_other_tools_runs(done: dict[str, sheaf.Done], form: str) -> None:
    assert done[form].lines == EXPECTED
    assert f"the image asks for user '4711:4711'; it runs as {USER.pw_name}, as every job" in done[form].notes  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_entrypoint_of_other_tools_images_runs(done: dict[str, sheaf.Done], form: str) -> None:
    assert done[f"{form}: entrypoint"].lines == ["entry a b"]


@pytest.fixture(scope="module")
def saved(tools: Tools) -> str:
    """What a step saved: the image with one more layer."""
    name = f"{IMAGE}:saved"
    words = (f"--container={IMAGE}:oci", f"--container-save=docker://{name}")
    script = "echo by the step > /saved; rm /made; mkdir /d; touch /d/x"
    jobs.output(jobs.run("srun", "-N1", "-n1", *words, "sh", "-c", script))
    return name


def test_buildah_mounts_what_a_step_saved(tools: Tools, saved: str) -> None:
    tools.buildah("pull", "--quiet", "--tls-verify=false", f"docker://{saved}")
    made = tools.buildah("from", saved).strip()
    root = Path(tools.buildah("mount", made).strip())
    assert (root / "saved").read_text() == "by the step\n"
    assert (root / "d/x").exists()
    assert not (root / "made").exists()
    config = json.loads(tools.buildah("inspect", "--type=image", saved))["OCIv1"]["config"]
    assert config["Entrypoint"] == ["/entry"]
    assert config["User"] == "4711:4711"
    assert config["Labels"]["org.fairlead.test"] == "by buildah"


def test_skopeo_and_the_validator_accept_what_a_step_saved(tools: Tools, saved: str) -> None:
    raw = ("inspect", "--tls-verify=false", "--raw")
    manifest = json.loads(tools.skopeo(*raw, f"docker://{saved}"))
    config = json.loads(tools.skopeo(*raw, "--config", f"docker://{saved}"))
    Manifest().load({key: value for key, value in manifest.items() if key != "mediaType"})
    Image().load(config)
    assert len(manifest["layers"]) == len(config["rootfs"]["diff_ids"])
    copy = (
        "copy",
        "--quiet",
        "--src-tls-verify=false",
        f"docker://{saved}",
        f"dir:{tools.place}/dir",
    )
    tools.skopeo(*copy)


def test_umoci_unpacks_what_a_step_saved(tools: Tools, saved: str) -> None:
    layout = f"{tools.place}/saved"
    copy = ("copy", "--quiet", "--src-tls-verify=false", f"docker://{saved}", f"oci:{layout}:1")
    tools.skopeo(*copy)
    tools.run("umoci", "unpack", "--image", f"{layout}:1", f"{tools.place}/bundle")
    root = tools.place / "bundle/rootfs"
    assert (root / "saved").read_text() == "by the step\n"
    assert not (root / "made").exists()


def test_image_built_on_a_saved_one_runs(tools: Tools, saved: str) -> None:
    (tools.place / "Again").write_text(
        f'FROM {saved}\nUSER 0\nRUN ["/bin/sh", "-c", "cat /saved > /again"]\n'
    )
    tools.buildah("bud", "--quiet", "--tls-verify=false", "-f", "Again", "-t", "again", ".")
    tools.buildah("push", "--quiet", "--tls-verify=false", "again", f"docker://{IMAGE}:again")
    assert jobs.output(jobs.srun("cat", "/again", container=f"{IMAGE}:again")) == "by the step\n"
