"""Where a user's text says to save, and that reading a root says how far it is."""

from __future__ import annotations

import io
import tarfile

import pytest

from fairlead import config as settings
from fairlead import errors, log
from fairlead.run import saving
from fairlead.store import layertar

CONFIG = settings.load({"HOME": "/nonexistent", "FAIRLEAD_SITE_CONFIG": "/nonexistent"})


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("a.sqsh", "squashfs", "/home/a.sqsh"),
        ("/x/../a.squashfs", "squashfs", "/a.squashfs"),
        ("a.tar", "tar", "/home/a.tar"),
        ("oci:a:1", "image", "oci:/home/a:1"),
        ("docker://h:1/a:2", "image", "h:1/a:2"),
    ],
)
def test_targets(text, kind, name):
    found = saving.target(text, CONFIG, "/home")
    assert (found.kind, found.path or str(found.ref)) == (kind, name)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a", "a: cannot be saved to"),
        ("http://h/a.tar", "http://h/a.tar: cannot be saved to"),
        (
            f"docker://h:1/a@sha256:{'0' * 64}",
            f"docker://h:1/a@sha256:{'0' * 64}: a digest is what comes out, no place to write to",
        ),
    ],
)
def test_what_is_no_target(text, line):
    with pytest.raises(errors.UsageError) as caught:
        saving.target(text, CONFIG, "/home")
    assert caught.value.message == line


def test_reading_says_how_far_it_is_and_gives_an_archive(tmp_path, capfd):
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    root = saving.Root((str(tmp_path),), layertar.Left(), "x", changed=False, size=200_000)
    out = io.BytesIO()
    told = log.QuietProgress("saving x", first_s=0.0, every_s=0.0)
    assert saving._read(root, out, told, whole=True) == 1
    assert capfd.readouterr().err.startswith("fairlead: saving x: 0 % of 0 MB\n")
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        assert [(member.name, member.size) for member in tar] == [("file", 100_000)]


def test_a_tree_that_is_too_deep_is_refused_in_words(tmp_path):
    deep = tmp_path
    for _ in range(layertar.MAX_DEPTH + 1):
        deep = deep / "d"
        deep.mkdir()
    with pytest.raises(errors.LayerError, match="lies more than 200 directories deep"):
        layertar.whole(io.BytesIO(), (str(tmp_path),), layertar.Left())
