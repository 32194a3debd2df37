"""Uploads against a registry that breaks: what was sent is not sent again, what failed is said."""

from __future__ import annotations

import os

import pytest
from faulty_registry import cut, drop, said, status
from images import image, layer
from test_login import LOGIN, log_in

from fairlead import errors
from fairlead.image import derive, outgoing, reference, registry
from fairlead.image.manifest import Descriptor

pytestmark = pytest.mark.usefixtures("quick")
PIECE = 1 << 18


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(outgoing, "PIECE_BYTES", PIECE)


@pytest.fixture
def built():
    return image([layer({"a": os.urandom(3 * PIECE)}, "none")])


def parts(built, repository=""):
    data = built.blobs[built.layer_digests[0]]
    descriptor = Descriptor(derive.LAYER, built.layer_digests[0], len(data))
    halves = (data[: len(data) // 2], data[len(data) // 2 :])
    blob = outgoing.Blob(descriptor, lambda: iter(halves), repository)
    return derive.documents(built.blobs[built.config_digest], (descriptor,)), (blob,)


def push(bench, faulty, built, repository="", progress=None):
    ref = reference.parse(f"{faulty.host}/x/y:1")
    documents, blobs = parts(built, repository)
    scopes = outgoing.scopes(ref, blobs)
    with registry.Client(bench.config, bench.environ, scopes=scopes) as client:
        return outgoing.push(client, ref, documents, blobs, progress)


def test_what_is_pushed_can_be_pulled(bench, faulty, built):
    digest = push(bench, faulty, built)
    image = bench.pull(f"{faulty.host}/x/y:1")
    assert image.digest == digest
    assert faulty.count("PATCH", "uploads") == 4 + 1  # the layer's pieces, the configuration


@pytest.mark.parametrize("fault", [drop(), cut(0.5), status(502), status(503, Retry_After="0")])
@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT", "GET", "HEAD"])
def test_a_broken_request_is_tried_again_and_nothing_is_lost(bench, faulty, built, method, fault):
    faulty.fault("/x/y/", fault, times=2, method=method)
    if method == "GET":
        faulty.fault("/x/y/", drop(), times=1, method="PATCH")
    push(bench, faulty, built)
    assert faulty.blobs[built.layer_digests[0]] == built.blobs[built.layer_digests[0]]


def test_a_piece_that_came_through_is_not_sent_again(bench, faulty, built):
    faulty.fault("uploads", drop(), times=1, method="PATCH", skip=1)
    push(bench, faulty, built)
    sent = sum(len(r.body) for r in faulty.requests if r.method == "PATCH")
    size = len(built.blobs[built.layer_digests[0]]) + len(built.blobs[built.config_digest])
    assert sent == size


def test_a_layer_is_taken_over_from_another_repository(bench, faulty, built):
    faulty.add("other/z", "1", built)
    faulty.fault("/x/y/blobs/sha256", status(404), method="HEAD")
    push(bench, faulty, built, "other/z")
    assert faulty.count("POST", f"mount={built.layer_digests[0].replace(':', '%3A')}") == 1
    assert faulty.count("PATCH", "uploads") == 1  # the configuration


def test_a_layer_that_is_not_taken_over_is_sent(bench, faulty, built):
    faulty.mounts = False
    push(bench, faulty, built, "other/z")
    assert faulty.blobs[built.layer_digests[0]] == built.blobs[built.layer_digests[0]]


def test_a_token_is_asked_for_with_the_right_to_push(bench, faulty, built):
    faulty.scheme, faulty.login = "bearer", LOGIN
    log_in(bench, faulty.host)
    push(bench, faulty, built, "other/z")
    (asked,) = [r.path for r in faulty.requests if r.path.startswith("/token")]
    assert "scope=repository%3Ax%2Fy%3Apull%2Cpush" in asked
    assert "scope=repository%3Aother%2Fz%3Apull" in asked


def test_a_refused_push_says_whose_login_it_was(bench, faulty, built):
    faulty.scheme, faulty.login = "basic", LOGIN
    path = log_in(bench, faulty.host, password="wrong")
    with pytest.raises(errors.AuthError) as caught:
        push(bench, faulty, built)
    assert f"the registry refused the login of {path}" in caught.value.message
    assert faulty.uploads == {}


def test_denied_is_final(bench, faulty, built):
    denied = said(403, "DENIED", "requested access to the resource is denied")
    faulty.fault("uploads", denied, method="POST")
    with pytest.raises(errors.AuthError, match="requested access to the resource is denied"):
        push(bench, faulty, built)
    assert faulty.count("POST", "uploads") == 1


def test_other_content_than_promised_is_not_kept(bench, faulty, built):
    ref = reference.parse(f"{faulty.host}/x/y:1")
    documents, (blob,) = parts(built)
    wrong = blob._replace(read=lambda: iter((b"other",)))
    with (
        registry.Client(bench.config, bench.environ) as client,
        pytest.raises(errors.DigestError, match="its source gave other content"),
    ):
        outgoing.push(client, ref, documents, (wrong,))
    assert faulty.manifests == {}
    assert faulty.count("PUT", "") == 0


def test_a_registry_that_stays_away_is_out_of_reach(bench, faulty, built):
    faulty.fault("uploads", drop())
    with pytest.raises(errors.RegistryUnreachableError):
        push(bench, faulty, built)
    assert faulty.manifests == {}
