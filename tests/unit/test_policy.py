"""policy.json: which demands concern an image; and which signed names are that image's."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead import config as settings
from fairlead import errors
from fairlead.image import policy, reference, signature
from fairlead.shared import keeper

DIGEST = "sha256:" + "a" * 64
ACCEPT, REJECT = {"type": "insecureAcceptAnything"}, {"type": "reject"}
SIGNED = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}


@pytest.fixture
def demanded(tmp_path):
    """Return the kinds of what a policy demands of an image, with the scope that decided."""
    site = tmp_path / "site.toml"
    site.write_text(f'containers_config = "{tmp_path}"\n')
    environ = {"FAIRLEAD_SITE_CONFIG": str(site), "HOME": str(tmp_path / "home")}

    def ask(table, name, kind="docker"):
        (tmp_path / "policy.json").write_text(json.dumps(table))
        ref = reference.parse(name)
        found = policy.required(ref, lambda: kind, settings.load(environ), environ)
        return [
            (demand.kind, demand.origin.removeprefix(f"{tmp_path}/policy.json: "))
            for demand in found
        ]

    return ask


@pytest.mark.parametrize(
    ("name", "kind", "decides"),
    [
        ("a.example/ns/x:1", "docker", "transports: docker: 'a.example/ns'"),
        ("a.example/ns/x:2", "docker", "transports: docker: 'a.example/ns/x:2'"),
        ("a.example/other/x", "docker", "transports: docker: 'a.example'"),
        ("b.test.org/x", "docker", "transports: docker: '*.test.org'"),
        ("b.example/x", "docker", "transports: docker: ''"),
        ("oci:/scratch/a/b:t", "oci", "transports: oci: '/scratch/a'"),
        ("oci:/scratch/ab", "oci", "default"),
        ("docker-archive:/scratch/a/x.tar", "docker-archive", "transports: docker-archive: ''"),
        ("/scratch/x.sqsh", "squashfs", "default"),
    ],
)
def test_most_specific_scope_decides(demanded, name, kind, decides):
    docker = ("a.example", "a.example/ns", "a.example/ns/x:2", "*.test.org", "")
    table = {
        "default": [REJECT],
        "transports": {
            "docker": {scope: [REJECT] for scope in docker},
            "oci": {"/scratch/a": [REJECT]},
            "docker-archive": {"": [REJECT]},
            "unknown-to-us": {"": [REJECT]},
        },
    }
    assert demanded(table, name, kind) == [("reject", decides)]


def test_all_requirements_of_a_scope_hold_and_acceptance_adds_none(demanded):
    assert demanded({"default": [ACCEPT, SIGNED, REJECT]}, "x") == [
        ("signedBy", "default"),
        ("reject", "default"),
    ]
    assert demanded({"default": [ACCEPT]}, "x") == []


def test_damage_in_a_scope_of_another_image_is_an_error(demanded):
    table = {"default": [ACCEPT], "transports": {"docker": {"z.example": [{"type": 3}]}}}
    with pytest.raises(errors.ConfigError, match=r"z\.example.*without a type"):
        demanded(table, "x")


def test_unknown_kind_concerns_its_own_scope_only(demanded):
    table = {"default": [ACCEPT], "transports": {"docker": {"z.example": [{"type": "new"}]}}}
    assert demanded(table, "x") == []
    assert demanded(table, "z.example/x")[0][0] == "the unknown 'new'"


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5)
    | st.sampled_from(["type", "reject", "signedBy", "/k", "GPGKeys"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["type", "keyType", "keyPath", "default", "transports", "docker", "x"]),
        inner, max_size=4,
    ),
))  # fmt: skip
def test_whatever_a_file_holds_is_understood_or_an_error_of_its_own(value):
    data = json.dumps({"default": value} if not isinstance(value, dict) else value).encode()
    ref = reference.parse("a.example/x")
    try:
        found = [demand.kind for demand in policy._demands(data, "p", ref, lambda: "docker")]
    except errors.ConfigError as error:
        found = [error.message[:3]]
    known = ("reject", "signedBy", "sigstoreSigned", "the unknown ", "p: ")
    assert all(kind.startswith(known) for kind in found)


def test_storekeeper_hears_no_tag():
    """A policy may be weaker for one tag, and which tag an image has its user says."""
    found = keeper.image_name({"image": f"a.example/x:test@{DIGEST}"})
    assert found == reference.parse(f"a.example/x@{DIGEST}")


# -- signed names ----------------------------------------------------------------------------------

X1, X = "a.example/ns/x:1", "a.example/ns/x"


@pytest.mark.parametrize(
    ("signed", "asked", "identity", "same"),
    [
        (X1, X1, ("matchRepoDigestOrExact",), True),
        ("a.example/ns/x:2", X1, ("matchRepoDigestOrExact",), False),
        (X, X1, ("matchRepoDigestOrExact",), False),
        (X, f"{X}:latest", ("matchRepoDigestOrExact",), False),
        (X1, f"{X}@{DIGEST}", ("matchRepoDigestOrExact",), True),
        (X, f"{X}@{DIGEST}", ("matchRepoDigestOrExact",), True),
        ("b.example/ns/x:1", f"{X}@{DIGEST}", ("matchRepoDigestOrExact",), False),
        (X1, f"{X1}@{DIGEST}", ("matchRepoDigestOrExact",), True),  # a tag that was frozen
        ("a.example/ns/x:2", f"{X1}@{DIGEST}", ("matchRepoDigestOrExact",), False),
        (X1, f"{X1}@{DIGEST}", ("matchExact",), True),
        ("v.example/n/x:2", f"{X1}@{DIGEST}", ("remapIdentity", "a.example", "v.example"), False),
        (X1, f"{X}@{DIGEST}", ("matchExact",), False),
        (f"{X}@{DIGEST}", f"{X}@{DIGEST}", ("matchExact",), True),
        (X1, X1, ("matchExact",), True),
        (X, f"{X}:9", ("matchRepository",), True),
        ("a.example/ns/xx", X1, ("matchRepository",), False),
        ("q.example/x:1", X1, ("exactReference", "q.example/x:1"), True),
        ("q.example/x", X1, ("exactReference", "q.example/x:latest"), False),
        ("q.example/x:7", X1, ("exactRepository", "q.example/x"), True),
        ("q.example/y:7", X1, ("exactRepository", "q.example/x"), False),
        ("v.example/n/x:1", X1, ("remapIdentity", "a.example/ns", "v.example/n"), True),
        ("v.example/n/x:2", X1, ("remapIdentity", "a.example/ns", "v.example/n"), False),
        (X1, X1, ("remapIdentity", "b.example", "v.example"), True),
        ("v.examplens/x:1", X1, ("remapIdentity", "a.example/n", "v.example"), False),
        ("oci:/x", X1, ("matchRepository",), False),
        ("A b", X1, ("matchRepository",), False),
        ("", X1, ("matchRepository",), False),
    ],
)
def test_signed_name_is_compared_as_demanded(signed, asked, identity, same):
    assert signature.is_named(signed, reference.parse(asked), identity) is same
