"""The images of these tests are what the specification says: an independent validator is asked."""

from __future__ import annotations

import json

import pytest
from images import folder, image, index, layer, platform, program, symlink
from opencontainers.digest.exceptions import ErrDigestInvalidFormat
from opencontainers.image.v1 import Image as SpecImage
from opencontainers.image.v1 import Index as SpecIndex
from opencontainers.image.v1 import Manifest as SpecManifest

FILES = {"bin/": folder(), "bin/x": program(b"#!/bin/sh\n"), "sh": symlink("bin/x")}


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_manifest_and_configuration_pass_the_independent_validator(compression):
    built = image([layer(FILES, compression)])
    manifest = json.loads(built.manifest)
    manifest.pop("mediaType")  # unknown to opencontainers 0.0.15, allowed since image-spec 1.0.2
    SpecManifest().load(manifest)
    config = json.loads(built.blobs[built.config_digest])
    SpecImage().load(config)


def test_index_passes_the_independent_validator():
    built = index((image([layer(FILES)]), platform("amd64")))
    table = json.loads(built.manifest)
    table.pop("mediaType")
    SpecIndex().load(table)


def test_validator_can_say_no():
    table = json.loads(image([]).manifest)
    table.pop("mediaType")
    table["config"]["digest"] = "sha256:../../x"
    with pytest.raises(ErrDigestInvalidFormat):
        SpecManifest().load(table)
