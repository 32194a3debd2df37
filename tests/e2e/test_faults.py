"""What a bad registry or network can do, and what must hold: resume or one clear error, nothing kept.

Rows of security.md: section 2 row 15, 21, 22, 42; section 4 faults 4 to 8.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from email.utils import formatdate
from pathlib import Path

import pytest
from faulty_registry import (
    cut,
    drop,
    header,
    html,
    other_body,
    said,
    short,
    stall,
    status,
    trickle,
    unlike_range,
)
from images import folder, image, layer

from fairlead import errors
from fairlead.image import transport

pytestmark = pytest.mark.usefixtures("quick")

SIZE = 3 << 20


@pytest.fixture(scope="module")
def big():
    """An image of one incompressible layer, so that bytes on the wire are bytes of the layer."""
    return image([layer({"data": os.urandom(SIZE), "etc/": folder()}, "none")])


def digest_of_layer(built):
    return built.layer_digests[0]


def nothing_kept(bench):
    assert bench.leftovers() == []
    assert os.listdir(bench.root / "trees") == []
    assert os.listdir(bench.root / "images") == []
    names = os.listdir(bench.root / "blobs/sha256")
    assert all((bench.root / "blobs/sha256" / name).stat().st_size < 4096 for name in names)


def refused(bench, name, error):
    with pytest.raises(error) as caught:
        bench.pull(name)
    assert caught.value.message.startswith(name), caught.value.message
    assert threading.active_count() < 12  # the server's own; ours are joined
    nothing_kept(bench)
    return caught.value.message


def whole(found):
    return (Path(found.rootfs) / "data").stat().st_size == SIZE


# -- broken connections (fault 4) ------------------------------------------------------------------


@pytest.mark.parametrize("at", [0.0, 0.01, 0.5, 0.99])
def test_reset_is_resumed_where_it_stopped(bench, faulty, big, at):
    name = faulty.add("x/y", "1", big)
    faulty.fault(digest_of_layer(big), cut(at), times=1)
    assert whole(bench.pull(name))
    first, second = [r for r in faulty.requests if digest_of_layer(big) in r.path]
    assert "range" not in first.headers
    if at:
        start = int(re.fullmatch(r"bytes=(\d+)-", second.headers["range"])[1])
        assert 0 < start <= len(big.blobs[digest_of_layer(big)]) * at
        assert second.headers["if-range"] == f'"{digest_of_layer(big)}"'


def test_several_resets_are_resumed_each(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    faulty.fault(digest_of_layer(big), cut(0.3), times=4)
    assert whole(bench.pull(name))
    assert faulty.count("GET", digest_of_layer(big)) == 5


def test_connection_that_always_breaks_is_given_up(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    faulty.fault(digest_of_layer(big), cut(1000))
    found = refused(bench, name, errors.RegistryUnreachableError)
    assert re.search(
        r"Connection reset by peer, after \d+ of \d+ bytes$|closed early, after", found
    )
    assert faulty.count("GET", digest_of_layer(big)) == 5


def test_reset_without_any_answer_is_tried_again(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    faulty.fault("", drop(), times=4)
    assert whole(bench.pull(name))


def test_whole_blob_instead_of_a_range_is_read_past(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    data = big.blobs[digest_of_layer(big)]
    faulty.fault(digest_of_layer(big), cut(0.5), times=1)
    faulty.fault(digest_of_layer(big), unlike_range(data), times=1, skip=1)
    assert whole(bench.pull(name))


@pytest.mark.parametrize(
    "span", ["bytes 99999999-99999999/100000000", "bytes 1-2/3", "nonsense", "bytes */7", None]
)
def test_wrong_content_range_is_not_believed(bench, faulty, big, span):
    name = faulty.add("x/y", "1", big)
    faulty.fault(digest_of_layer(big), cut(0.5), times=1)
    faulty.fault(digest_of_layer(big), header("Content-Range", span), times=1, skip=1)
    assert whole(bench.pull(name))  # asked once more
    assert faulty.count("GET", digest_of_layer(big)) == 3


def test_content_that_changes_between_two_parts_is_refused(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    faulty.fault(digest_of_layer(big), cut(0.5), times=1)
    faulty.fault(
        digest_of_layer(big), lambda a: a._replace(body=bytes(len(a.body))), times=1, skip=1
    )
    assert "the registry sent other content" in refused(bench, name, errors.DigestError)


def test_range_that_does_not_exist_any_more_is_a_wrong_size(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    faulty.fault(digest_of_layer(big), cut(0.5), times=1)
    faulty.fault(digest_of_layer(big), status(416), times=1, skip=1)
    assert "but ends before byte" in refused(bench, name, errors.DigestError)


# -- slow and silent (fault 5) ---------------------------------------------------------------------


def test_silence_is_broken_off_and_resumed(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    faulty.fault(digest_of_layer(big), stall(SIZE // 2), times=1)
    assert whole(bench.pull(name))
    assert faulty.count("GET", digest_of_layer(big)) == 2


def test_trickle_is_broken_off(bench, faulty, big, monkeypatch):
    name = faulty.add("x/y", "1", big)
    hurried = transport.TIMING._replace(rate_window_s=0.5, least_rate=10_000, tries=2)
    monkeypatch.setattr(transport, "TIMING", hurried)
    faulty.fault(digest_of_layer(big), trickle(200))
    started = time.monotonic()
    found = refused(bench, name, errors.RegistryUnreachableError)
    assert "less than 10000 bytes a second arrive" in found
    assert time.monotonic() - started < 5


def test_manifest_that_never_ends_is_broken_off(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    faulty.fault("/manifests/", trickle(50), method="GET")
    started = time.monotonic()
    with pytest.raises(errors.RegistryUnreachableError):
        bench.pull(name)
    assert time.monotonic() - started < 20


def test_interrupt_ends_a_pull_within_a_second(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    faulty.fault(digest_of_layer(big), stall(SIZE // 2))
    with bench.start("pull", name) as process:
        until(lambda: faulty.count("GET", digest_of_layer(big)))
        time.sleep(0.3)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said_words = process.communicate(timeout=10)
    assert time.monotonic() - sent < 1.5
    assert process.returncode == 130
    assert said_words == "fairlead: interrupted\n"
    nothing_kept(bench)


def test_termination_ends_a_pull_at_once(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    faulty.fault(digest_of_layer(big), stall(SIZE // 2), times=1)
    with bench.start("pull", name) as process:
        until(lambda: faulty.count("GET", digest_of_layer(big)))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=2)
    assert whole(bench.pull(name))
    assert bench.leftovers() == []


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- refusals and overload (fault 6) ---------------------------------------------------------------


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_passing_trouble_is_tried_again(bench, faulty, big, code):
    name = faulty.add("x/y", "1", big)
    faulty.fault("/manifests/", status(code), times=2)
    faulty.fault("/blobs/", status(code), times=2)
    assert whole(bench.pull(name))


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_lasting_trouble_is_given_up_after_five_tries(bench, faulty, big, code):
    name = faulty.add("x/y", "1", big)
    faulty.fault("/manifests/", said(code, "TOOMANYREQUESTS", "slow down, please"), method="GET")
    with pytest.raises(errors.RegistryUnreachableError) as caught:
        bench.pull(name)
    assert re.fullmatch(
        rf"{name}: the registry answered {code} [\w ]+: slow down, please", caught.value.message
    )
    assert faulty.count("GET", "/manifests/") == 5


@pytest.mark.parametrize(
    ("wait", "least_s"),
    [("1", 0.3), ("99999999", 0.3), (formatdate(time.time() + 600, usegmt=True), 0.3), ("x", 0)],
)
def test_retry_after_is_followed_up_to_a_limit(bench, faulty, big, wait, least_s):
    name = faulty.add("x/y", "1", big)
    faulty.fault("/manifests/", status(429, Retry_After=wait), times=1, method="GET")
    started = time.monotonic()
    assert whole(bench.pull(name))
    assert least_s <= time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("code", "error"),
    [(401, errors.AuthError), (403, errors.AuthError), (404, errors.ImageNotFoundError)],
)
def test_refusal_is_final(bench, faulty, big, code, error):
    name = faulty.add("x/y", "1", big)
    faulty.fault("/manifests/", said(code, "DENIED", "no access for you"), method="GET")
    with pytest.raises(error, match="no access for you"):
        bench.pull(name)
    assert faulty.count("GET", "/manifests/") == 1


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        (401, errors.AuthError, "blob sha256:[0-9a-f]{64}: the registry wants a login: why"),
        (403, errors.AuthError, "the registry wants a login: why"),
        (404, errors.RegistryError, "the registry has the image but not this part of it: why"),
        (400, errors.RegistryError, "the registry answered why"),
    ],
)
def test_refused_blob_is_final(bench, faulty, big, code, error, words):
    name = faulty.add("x/y", "1", big)
    faulty.fault(digest_of_layer(big), said(code, "X", "why"))
    assert re.search(words, refused(bench, name, error))
    assert faulty.count("GET", digest_of_layer(big)) == 1


def test_one_layer_that_is_refused_stops_the_others(bench, faulty):
    layers = [layer({str(number): os.urandom(200_000)}, "none") for number in range(12)]
    built = image(layers)
    name = faulty.add("x/y", "1", built)
    for item in layers[:3]:
        faulty.fault(item.digest, trickle(50_000))
    faulty.fault(layers[3].digest, status(403))
    started = time.monotonic()
    refused(bench, name, errors.AuthError)
    assert time.monotonic() - started < 3


# -- wrong content (fault 8) -----------------------------------------------------------------------


def test_short_blob_with_200_is_a_wrong_size(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    faulty.fault(digest_of_layer(big), short(1000))
    assert "bytes but has 1000 bytes" in refused(bench, name, errors.DigestError)


def test_short_chunked_blob_is_given_up(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    faulty.fault(digest_of_layer(big), lambda a: short(1000)(header("Content-Length", None)(a)))
    faulty.fault(
        digest_of_layer(big), lambda a: a._replace(headers={**a.headers, "Content-Length": None})
    )
    assert "the body ended early, after 5000 of" in refused(
        bench, name, errors.RegistryUnreachableError
    )


def test_promised_length_that_does_not_come_is_given_up(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    size = len(big.blobs[digest_of_layer(big)])
    faulty.fault(digest_of_layer(big), short(1000, length=size))
    assert "closed early, after" in refused(bench, name, errors.RegistryUnreachableError)


def test_long_blob_is_cut_off(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    data = big.blobs[digest_of_layer(big)] + b"more"
    faulty.fault(
        digest_of_layer(big),
        lambda a: a._replace(body=data, headers={"Content-Length": None}, close=True),
    )
    assert "goes on after its end" in refused(bench, name, errors.DigestError)


def test_altered_blob_is_refused(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    data = big.blobs[digest_of_layer(big)]
    faulty.fault(digest_of_layer(big), other_body(data[:-1] + b"!"))
    found = refused(bench, name, errors.DigestError)
    assert re.fullmatch(
        rf"{name}: {digest_of_layer(big)}: the registry sent other content, with the digest sha256:[0-9a-f]{{64}}",
        found,
    )


def test_web_page_instead_of_a_manifest_is_called_one(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    faulty.fault("/manifests/", html())
    assert refused(bench, name, errors.RegistryError) == (
        f"{name}: the registry answered with a web page instead of a manifest"
    )


def test_web_page_instead_of_a_blob_is_a_wrong_size(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    faulty.fault("/blobs/", html())
    refused(bench, name, errors.DigestError)


def test_altered_manifest_is_refused(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    faulty.fault("/manifests/", lambda a: a._replace(body=a.body.replace(b"layers", b"Layers")))
    assert re.search(
        "the manifest should be sha256:.* but is sha256:", refused(bench, name, errors.DigestError)
    )


def test_altered_configuration_is_refused(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    data = big.blobs[big.config_digest]
    faulty.fault(big.config_digest, other_body(data.replace(b"amd64", b"amd65")))
    assert "the registry sent other content" in refused(bench, name, errors.DigestError)


def test_digest_that_the_header_claims_must_fit(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    faulty.fault("/manifests/", header("Docker-Content-Digest", "sha256:" + "0" * 64), method="GET")
    faulty.fault("/manifests/", header("Docker-Content-Digest", None), method="HEAD")
    assert "the manifest should be sha256:0000" in refused(bench, name, errors.DigestError)


@pytest.mark.parametrize("claimed", ["sha256:../../x", "SHA256:" + "0" * 64, "sha256:", "x"])
def test_digest_header_that_is_none_is_ignored(bench, faulty, big, claimed):
    name = faulty.add("x/y", "1", big)
    faulty.fault("/manifests/", header("Docker-Content-Digest", claimed))
    assert bench.pull(name).digest == big.digest


def test_content_type_that_contradicts_the_document_is_refused(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    faulty.fault("/manifests/", header("Content-Type", kind))
    assert "but calls itself application/vnd.oci" in refused(bench, name, errors.ManifestError)


@pytest.mark.parametrize("kind", ["gzip", "deflate", "br", "gzip, gzip"])
def test_encoded_body_is_refused(bench, faulty, big, kind):
    name = faulty.add("x/y", "1", big)
    faulty.fault("/blobs/", header("Content-Encoding", kind))
    assert f"the body came encoded as '{kind}', unasked" in refused(
        bench, name, errors.RegistryError
    )
    assert all(r.headers["accept-encoding"] == "identity" for r in faulty.requests)


def test_endless_manifest_is_cut_off(bench, faulty, big):
    name = faulty.add("x/y", "1", big)
    faulty.fault("/manifests/", other_body(b" " * (5 << 20)), method="GET")
    assert "the answer has more than 4194304 bytes" in refused(bench, name, errors.RegistryError)


def test_configuration_that_claims_to_be_huge_is_never_asked_for(bench, faulty, big):
    table = json.loads(big.manifest)
    table["config"]["size"] = 10 << 30
    name = faulty.add("x/y", "1", big._replace(manifest=json.dumps(table).encode()))
    assert "has a configuration of 10737418240 bytes" in refused(bench, name, errors.ManifestError)
    assert faulty.count("GET", "/blobs/") == 0


def test_image_larger_than_the_disk_is_refused_before_the_first_byte(bench, faulty, big):
    table = json.loads(big.manifest)
    table["layers"][0]["size"] = 1 << 41
    name = faulty.add("x/y", "1", big._replace(manifest=json.dumps(table).encode()))
    with pytest.raises(errors.SpaceError) as caught:
        bench.pull(name)
    assert re.fullmatch(
        rf"{bench.root}: {name} needs 4,398.0 GB or more, [\d,.]+ [GM]B free, gc can free [\d.]+ [GM]B",
        caught.value.message,
    )
    assert faulty.count("GET", digest_of_layer(big)) == 0


def test_foreign_urls_are_never_asked(bench, faulty):
    built = image([layer({"a": b"1"})])
    table = json.loads(built.manifest)
    table["layers"][0]["urls"] = [f"http://{faulty.host}/evil"]
    kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    table["layers"][0]["mediaType"] = kind
    bench.pull(faulty.add("x/y", "1", built._replace(manifest=json.dumps(table).encode())))
    assert faulty.count("GET", "evil") == 0


def test_every_request_says_who_asks(bench, faulty, big):
    bench.pull(faulty.add("x/y", "1", big))
    assert all(
        re.fullmatch(r"fairlead/\d+\.\d+\.\d+", r.headers["user-agent"]) for r in faulty.requests
    )


def test_layer_that_was_altered_is_called_altered_not_damaged(bench, faulty):
    """The archive reader stumbles first, over bytes whose digest is not yet known to be wrong."""
    built = image([layer({"data": os.urandom(1 << 20)})])
    name = faulty.add("x/y", "1", built)
    data = built.blobs[digest_of_layer(built)]
    faulty.fault(digest_of_layer(built), other_body(data[:5000] + bytes(len(data) - 5000)))
    assert "the registry sent other content" in refused(bench, name, errors.DigestError)
