"""Manifests, indexes and configurations: what is read out of them and what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead import errors
from fairlead.image import manifest
from fairlead.image.manifest import Platform

D = "sha256:" + "d" * 64
E = "sha256:" + "e" * 64
AMD64 = Platform("linux", "amd64")


def layer(**over):
    return {
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "digest": E,
        "size": 3,
        **over,
    }


def document(**over):
    table = {
        "schemaVersion": 2,
        "mediaType": manifest.OCI_MANIFEST,
        "config": {"mediaType": manifest.OCI_CONFIG, "digest": D, "size": 2},
        "layers": [layer()],
        **over,
    }
    return json.dumps({key: value for key, value in table.items() if value is not ...}).encode()


def an_index(*platforms, **over):
    entries = [
        {
            "mediaType": manifest.OCI_MANIFEST,
            "digest": f"sha256:{number:064x}",
            "size": 1,
            **({"platform": platform} if platform is not None else {}),
        }
        for number, platform in enumerate(platforms)
    ]
    table = {"schemaVersion": 2, "mediaType": manifest.OCI_INDEX, "manifests": entries, **over}
    return json.dumps(table).encode()


def config(**over):
    table = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Env": ["A=1", "B=x=y"], "Cmd": ["sh"], "Labels": {"k": "v"}},
        "rootfs": {"type": "layers", "diff_ids": [D]},
        **over,
    }
    return json.dumps(table).encode()


# -- manifests -------------------------------------------------------------------------------------


def test_manifest_is_read():
    found = manifest.parse_manifest(document(), manifest.OCI_MANIFEST, D)
    assert found.config == manifest.Descriptor(manifest.OCI_CONFIG, D, 2)
    assert [item.digest for item in found.layers] == [E]


def test_docker_and_oci_types_may_be_mixed():
    docker_layer = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    data = document(
        config={"mediaType": manifest.DOCKER_CONFIG, "digest": D, "size": 2},
        layers=[layer(), layer(mediaType=docker_layer)],
    )
    assert len(manifest.parse_manifest(data, "", D).layers) == 2


@pytest.mark.parametrize(
    "served", ["", "application/json", f"{manifest.OCI_MANIFEST}; charset=utf-8"]
)
def test_untyped_answer_is_judged_by_the_document(served):
    assert isinstance(manifest.parse(document(), served, D), manifest.Manifest)


def test_type_may_be_told_by_content_type_alone():
    assert isinstance(
        manifest.parse(document(mediaType=...), manifest.OCI_MANIFEST, D), manifest.Manifest
    )
    assert isinstance(manifest.parse(document(mediaType=...), "", D), manifest.Manifest)


def test_foreign_layer_urls_are_forgotten():
    kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    data = document(layers=[layer(mediaType=kind, urls=["http://evil.example/x"])])
    assert "evil" not in repr(manifest.parse(data, "", D))


def test_zero_layers_are_allowed():
    assert manifest.parse_manifest(document(layers=[]), "", D).layers == ()


@pytest.mark.parametrize(
    ("data", "served", "why"),
    [
        (document(manifests=[]), "", "holds both layers and manifests"),
        (document(), manifest.OCI_INDEX, "was served as .*index.* but calls itself .*manifest"),
        (document(), manifest.DOCKER_MANIFEST, "was served as .*docker.* but calls itself"),
        (document(mediaType=...), manifest.OCI_INDEX, "does not hold what that type holds"),
        (document(mediaType="text/x"), "", "is of the unknown type text/x"),
        (document(schemaVersion=3), "", "has schemaVersion 3, not 2"),
        (document(schemaVersion="2"), "", "has schemaVersion '2', not 2"),
        (document(schemaVersion=1), "", "Docker's schema 1"),
        (
            document(),
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            "Docker's schema 1",
        ),
        (document(layers=...), "", "does not hold what that type holds"),
        (document(layers={}), "", "layers is a dict, not a list"),
        (document(config=[]), "", "config is a list, not a dict"),
        (document(config=None), "", "holds a descriptor that is no object"),
        (document(layers=[7]), "", "holds a descriptor that is no object"),
        (document(layers=[layer(size=-1)]), "", "with the size -1"),
        (document(layers=[layer(size=2**62)]), "", "with the size 4611686018427387904"),
        (document(layers=[layer(size=True)]), "", "with the size True"),
        (document(layers=[layer(size="3")]), "", "with the size 3"),
        (document(layers=[layer(size=1.5)]), "", "with the size 1.5"),
        (document(layers=[layer(digest="sha256:../../x")]), "", "holds a wrong digest"),
        (document(layers=[layer(digest="md5:" + "0" * 32)]), "", "unknown digest algorithm"),
        (document(layers=[layer(digest=None)]), "", "without a digest"),
        (document(layers=[layer(mediaType="application/x-evil")]), "", "no file-system layer"),
        (
            document(layers=[layer(mediaType=layer()["mediaType"] + "+encrypted")]),
            "",
            "no file-system",
        ),
        (document(layers=[layer()] * 1025), "", "has 1025 layers, more than 1024"),
        (
            document(config={"mediaType": manifest.OCI_CONFIG, "digest": D, "size": 5 << 20}),
            "",
            "more",
        ),
        (b"", "", "is not valid JSON"),
        (b"[]", "", "is not a JSON object"),
        (b"\xff{}", "", "is not valid JSON"),
        (b'{"a":NaN}', "", "NaN is not JSON"),
        (b'{"schemaVersion":2,"schemaVersion":2}', "", "the key 'schemaVersion' stands twice"),
        (b'{"a":' + b"9" * 5000 + b"}", "", "is not valid JSON"),
        (b"[" * 100_000, "", "is nested too deeply"),
        (b'{"a":' * 100_000, "", "is nested too deeply"),
        (b" " * (4 << 20) + b"{}", "", "has 4194306 bytes, more than 4194304"),
    ],
)
def test_malformed_manifest_is_refused(data, served, why):
    with pytest.raises(errors.ManifestError, match=why):
        manifest.parse(data, served, D)


def test_artifact_is_called_one():
    data = document(
        config={"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": D, "size": 2}
    )
    with pytest.raises(
        errors.ManifestError, match=r"not a container image but an artifact of type .*helm"
    ):
        manifest.parse(data, "", D)
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": D, "size": 2}
    model = document(config=empty, artifactType="application/x-model")
    with pytest.raises(errors.ManifestError, match="artifact of type application/x-model"):
        manifest.parse(model, "", D)


def test_index_is_no_manifest_and_the_reverse():
    with pytest.raises(errors.ManifestError, match="is an index where"):
        manifest.parse_manifest(an_index(), "", D)
    with pytest.raises(errors.ManifestError, match="is an image manifest where"):
        manifest.parse_index(document(), "", D)


# -- platforms -------------------------------------------------------------------------------------


def chosen(platforms, wanted):
    found = manifest.select(manifest.parse_index(an_index(*platforms), "", D), wanted)
    return int(found.digest[7:], 16)


def on(architecture, variant="", system="linux"):
    return {"os": system, "architecture": architecture, **({"variant": variant} if variant else {})}


@pytest.mark.parametrize(
    ("platforms", "wanted", "number"),
    [
        ([on("arm64"), on("amd64"), on("amd64")], AMD64, 1),
        ([on("amd64", system="windows"), on("amd64")], AMD64, 1),
        ([on("amd64", "v3"), on("amd64")], AMD64, 1),
        ([on("amd64", "v3"), on("amd64", "v1")], AMD64, 1),
        ([on("arm", "v7"), on("arm64", "v8")], Platform("linux", "arm64", "v8"), 1),
        ([on("arm64")], Platform("linux", "arm64", "v8"), 0),
        ([on("arm", "v8"), on("arm", "v6")], Platform("linux", "arm", "v7"), 1),
        ([on("arm"), on("arm", "v6")], Platform("linux", "arm", "v6"), 1),
        ([None, on("amd64")], AMD64, 1),
        ([None], AMD64, 0),
        ([on("unknown", system="unknown"), on("amd64")], AMD64, 1),
    ],
)
def test_first_entry_for_the_platform_wins(platforms, wanted, number):
    assert chosen(platforms, wanted) == number


def test_missing_platform_lists_what_there_is():
    with pytest.raises(errors.PlatformError) as caught:
        chosen([on("arm64", "v8"), on("s390x"), on("unknown", system="unknown")], AMD64)
    assert caught.value.message == "no image for linux/amd64; there is: linux/arm64/v8, linux/s390x"


def test_empty_index_says_nothing_is_there():
    with pytest.raises(errors.PlatformError, match="there is: nothing"):
        chosen([], AMD64)


def test_entries_that_are_no_images_are_skipped():
    data = json.loads(an_index(on("amd64"), on("amd64")))
    data["manifests"][0]["mediaType"] = "application/vnd.example+json"
    found = manifest.parse_index(json.dumps(data).encode(), "", D)
    assert manifest.select(found, AMD64).digest.endswith("1")


def test_this_platform_is_in_the_words_of_the_specification():
    assert manifest.this_platform().os == "linux"
    assert manifest.this_platform().architecture != "x86_64"


# -- configurations --------------------------------------------------------------------------------


def test_configuration_is_read():
    found = manifest.parse_config(config(created="2024-01-02T03:04:05Z"), D)
    assert found.env == (("A", "1"), ("B", "x=y"))
    assert (found.cmd, found.entrypoint, found.workdir, found.user) == (("sh",), (), "", "")
    assert found.labels == (("k", "v"),)
    assert found.platform == AMD64
    assert found.created == "2024-01-02T03:04:05Z"


def test_null_is_absent():
    inner = dict.fromkeys(("Env", "Cmd", "Entrypoint", "Labels", "User", "WorkingDir"))
    assert manifest.parse_config(config(config=inner), D).env == ()
    assert manifest.parse_config(config(config=None), D).cmd == ()
    assert (
        manifest.parse_config(config(rootfs={"type": "layers", "diff_ids": None}), D).diff_ids == ()
    )


def test_variable_without_a_value_or_a_name_is_dropped():
    found = manifest.parse_config(config(config={"Env": ["A", "=x", "B=", "C=1"]}), D)
    assert found.env == (("B", ""), ("C", "1"))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (config(config={"Env": "A=1"}), "Env is a str, not a list"),
        (config(config={"Env": [1]}), "Env holds a int, not a string"),
        (config(config={"Cmd": "sh -c x"}), "Cmd is a str, not a list"),
        (config(config={"Entrypoint": {"a": "b"}}), "Entrypoint is a dict"),
        (config(config={"Env": ["A=\0"]}), "Env holds a NUL"),
        (config(config={"User": "\ud800"}), "User holds a NUL or half a surrogate pair"),
        (config(config={"WorkingDir": 7}), "WorkingDir is a int"),
        (config(config={"Labels": {"a": 1}}), "Labels.* holds a int"),
        (config(config=[]), "config is a list"),
        (config(os=""), "without os or architecture"),
        (config(architecture=None), "without os or architecture"),
        (config(rootfs=None), "not a container image"),
        (config(rootfs={"type": "squash"}), "not a container image"),
        (config(rootfs={"type": "layers", "diff_ids": ["sha256:x"]}), "holds a wrong digest"),
    ],
)
def test_malformed_configuration_is_refused(data, why):
    with pytest.raises(errors.ManifestError, match=why):
        manifest.parse_config(data, D)


def test_layers_and_diff_ids_must_be_as_many():
    found = manifest.parse_manifest(document(layers=[layer(), layer()]), "", D)
    with pytest.raises(errors.ManifestError, match="has 2 layers, its configuration 1 diff_ids"):
        manifest.check_pair(found, manifest.parse_config(config(), D))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
keys = st.sampled_from(
    ["schemaVersion", "mediaType", "config", "layers", "manifests", "os", "rootfs"]
)


@given(st.dictionaries(keys, json_values))
def test_any_json_is_refused_with_our_error_or_read(table):
    table = {"schemaVersion": 2, **table}
    for read in (
        lambda data: manifest.parse(data, "", D),
        lambda data: manifest.parse_config(data, D),
    ):
        try:
            read(json.dumps(table).encode())
        except errors.ManifestError as error:
            assert error.message.isprintable()  # noqa: PT017 - either outcome is fine, a traceback is not
