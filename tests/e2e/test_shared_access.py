"""Who may have an image of the node's shared store: whoever its registry shows it to, and nobody else.

The attacker of these tests knows everything about the victim's image but its blobs: reference,
manifest, configuration, digests and DiffIDs.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import time

import pytest
from faulty_registry import FaultyRegistry, other_body, said, status
from images import encoded, image, layer, push
from shared_bed import ALICE, BOB, JOB, until

SECRET = "the victim's secret"
BASIC = "Basic YWxpY2U6b3BlbiBzZXNhbWU="
ATTACKER = BOB


@pytest.fixture
def private():
    """An image nobody may read without a login."""
    return image([layer({"secret": SECRET.encode()}), layer({"more": os.urandom(50_000)})])


@pytest.fixture
def attackers():
    """A registry of the attacker's own, on another port of the same machine."""
    with FaultyRegistry() as registry:
        yield registry


def old(shared, uid, seconds):
    """Let a user's proofs of access lie in the past."""
    then = time.time() - seconds
    for path in shared.root.glob(f"grants/{uid}/*"):
        os.utime(path, (then, then))


def refused(shared, answer, code):
    """Assert that the attacker got nothing at all."""
    assert answer.error is not None, answer
    assert answer.error[0] == code, answer
    assert answer.layers == 0
    assert SECRET not in answer.said + answer.error[1]
    assert shared.grants(ATTACKER) == []
    return answer.error[1]


def stored(shared, faulty, private):
    """The victim has the image in the store; returns its reference."""
    faulty.scheme, faulty.login = "basic", ("alice", "open sesame")
    name = faulty.add("victim/x", "1", private)
    shared.trust(faulty.host)
    shared.log_in(ALICE, faulty.host)
    has_secret(shared.run(ALICE, name))
    return name


def has_secret(answer):
    """Assert that a launch found the victim's image."""
    assert answer.found()["secret"] == SECRET


# -- at the victim's registry ----------------------------------------------------------------------


def test_private_image_of_a_real_registry_is_refused_without_a_login(
    shared, private_registry, private
):
    push(private_registry, "victim/x", "1", private, login=BASIC)
    name = f"{private_registry}/victim/x:1"
    shared.trust(private_registry)
    shared.log_in(ALICE, private_registry)
    has_secret(shared.run(ALICE, name))
    said_words = refused(shared, shared.run(ATTACKER, name), "auth")
    assert private_registry in said_words
    said_words = refused(shared, shared.run(ATTACKER, name, digest=private.digest), "auth")
    assert private_registry in said_words


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
def test_who_knows_the_digest_but_has_no_login_gets_nothing(shared, faulty, private, scheme):
    name = stored(shared, faulty, private)
    faulty.scheme = scheme
    before = len(faulty.requests)
    refused(shared, shared.run(ATTACKER, name, digest=private.digest), "auth")
    assert not [r for r in faulty.requests[before:] if "authorization" in r.headers]
    assert faulty.count("GET", "/manifests/") > 1


def test_a_login_that_the_registry_does_not_take_gets_nothing(shared, faulty, private):
    name = stored(shared, faulty, private)
    shared.log_in(ATTACKER, faulty.host, password="guess")
    refused(shared, shared.run(ATTACKER, name, digest=private.digest), "auth")


def test_token_of_the_users_own_login_is_proof(shared, faulty, private):
    faulty.scheme, faulty.login = "bearer", ("alice", "open sesame")
    name = faulty.add("victim/x", "1", private)
    shared.trust(faulty.host)
    for uid in (ALICE, BOB):
        shared.log_in(uid, faulty.host)
        has_secret(shared.run(uid, name))
    assert faulty.count("GET", private.layer_digests[0]) == 1


def test_manifest_that_the_registry_shows_is_no_right_to_layers_that_it_does_not(
    shared, faulty, private
):
    name = stored(shared, faulty, private)
    faulty.scheme = "none"
    faulty.fault("victim/x/blobs/", said(403, "DENIED", "not for you"))
    refused(shared, shared.run(ATTACKER, name, digest=private.digest), "auth")
    faulty.heal()
    for digest in private.layer_digests:
        faulty.fault(digest, said(404, "BLOB_UNKNOWN", "blob unknown"))
    refused(shared, shared.run(ATTACKER, name, digest=private.digest), "registry")


def test_repository_of_the_attackers_own_at_the_same_registry_proves_nothing(
    shared, faulty, private
):
    stored(shared, faulty, private)
    faulty.scheme = "none"
    name = faulty.add("attacker/x", "1", private)
    for digest in private.layer_digests:  # a blob is shown in the repository that it was pushed to
        faulty.fault(f"attacker/x/blobs/{digest}", said(404, "BLOB_UNKNOWN", "blob unknown"))
    refused(shared, shared.run(ATTACKER, name), "registry")


def test_real_registry_takes_no_manifest_that_names_blobs_of_another_repository(
    shared, registry, private
):
    push(registry, "victim/secret", "1", private)
    shared.trust(registry)
    has_secret(shared.run(ALICE, f"{registry}/victim/secret:1"))
    with pytest.raises(AssertionError, match="BLOB_UNKNOWN"):
        push(registry, "attacker/own", "1", private._replace(blobs={}))
    answer = shared.run(ATTACKER, f"{registry}/attacker/own:1", digest=private.digest)
    refused(shared, answer, "image-not-found")


# -- at the attacker's registry --------------------------------------------------------------------


@pytest.mark.parametrize("listed", [False, True], ids=["unlisted", "listed by the site"])
def test_attackers_registry_without_the_blobs_gives_nothing(
    shared, faulty, attackers, private, listed
):
    stored(shared, faulty, private)
    if listed:
        shared.trust(attackers.host)
    name = attackers.add("x", "1", private)
    for digest in private.layer_digests:
        del attackers.blobs[digest]
    refused(shared, shared.run(ATTACKER, name), "registry")


@pytest.mark.parametrize("listed", [False, True], ids=["unlisted", "listed by the site"])
def test_attackers_registry_that_claims_to_have_the_blobs_gives_nothing(
    shared, faulty, attackers, private, listed
):
    stored(shared, faulty, private)
    if listed:
        shared.trust(attackers.host)
    name = attackers.add("x", "1", private)
    for item in json.loads(private.manifest)["layers"]:
        del attackers.blobs[item["digest"]]
        fine = status(200, Content_Length=str(item["size"]))
        attackers.fault(item["digest"], fine, method="HEAD")
    refused(shared, shared.run(ATTACKER, name), "registry")


def test_attackers_registry_with_forged_blobs_gives_nothing_and_harms_nobody(
    shared, faulty, attackers, private
):
    victims = stored(shared, faulty, private)
    before = [(path, path.read_bytes()) for path in sorted(shared.root.glob("layers/*"))]
    name = attackers.add("x", "1", private)
    forged = layer({"secret": b"forged"}).data
    for digest in private.layer_digests:
        attackers.fault(digest, other_body(forged.ljust(len(private.blobs[digest]), b"\0")))
    answer = shared.run(ATTACKER, name)
    refused(shared, answer, "digest")
    assert [(path, path.read_bytes()) for path in sorted(shared.root.glob("layers/*"))] == before
    has_secret(shared.run(ALICE, victims))


def naming(private, *, config=None, layers=None):
    """An image of the attacker's that names the victim's DiffIDs over blobs of its own."""
    own = layer({"mine": b"x"})
    diff_ids = json.loads(private.blobs[private.config_digest])["rootfs"]["diff_ids"]
    claimed = [own._replace(diff_id=diff_id) for diff_id in diff_ids]
    return image(layers or claimed, config_over=config)


def test_manifest_whose_configuration_names_the_victims_diff_ids_gives_nothing(
    shared, faulty, attackers, private
):
    stored(shared, faulty, private)
    shared.trust(attackers.host)
    name = attackers.add("x", "1", naming(private))
    words = refused(shared, shared.run(ATTACKER, name), "digest")
    assert "its DiffID differs" in words


def test_victims_configuration_is_not_looked_up_for_who_only_knows_its_digest(
    shared, faulty, attackers, private
):
    """Else the error over a layer that does not fit would tell the image's DiffIDs."""
    stored(shared, faulty, private)
    own = layer({"mine": b"x"})
    table = json.loads(image([own, own]).manifest)
    table["config"] = json.loads(private.manifest)["config"]
    built = private._replace(manifest=encoded(table), blobs={own.digest: own.data})
    attackers.add("x", "1", built)
    words = refused(
        shared, shared.run(ATTACKER, f"{attackers.host}/x:1", digest=built.digest), "registry"
    )
    for diff_id in json.loads(private.blobs[private.config_digest])["rootfs"]["diff_ids"]:
        assert diff_id not in words


def test_layer_whose_bytes_spell_the_name_of_a_stack_does_not_get_that_name(
    shared, faulty, private
):
    """The ChainID of two layers is the digest of a text: that of their DiffIDs."""
    first, second = json.loads(private.blobs[private.config_digest])["rootfs"]["diff_ids"]
    shared.trust(faulty.host)
    name = faulty.add("x", "1", image([layer(f"{first} {second}".encode(), "none")]))
    answer = shared.run(ATTACKER, name)
    refused(shared, answer, "layer")
    assert shared.layers() == []


def test_registry_of_ones_own_is_fine_for_who_has_the_content(shared, faulty, attackers, private):
    stored(shared, faulty, private)
    name = attackers.add("x", "1", private)
    has_secret(shared.run(BOB, name))
    assert attackers.count("GET", private.layer_digests[0]) == 1
    # An unlisted registry's word is never remembered: it is asked for the content each time.
    old(shared, BOB, 7200)
    has_secret(shared.run(BOB, name, job=JOB + 1))
    assert attackers.count("GET", private.layer_digests[0]) == 2
    for path in shared.root.glob("layers/*.json"):
        assert attackers.host not in path.read_text()


def test_attackers_registry_that_dawdles_keeps_nobody_waiting(shared, faulty, attackers, private):
    """It offers a layer of another's by its DiffID and never delivers it."""
    name = faulty.add("x/y", "1", private)
    shared.trust(faulty.host, attackers.host)
    attackers.add("x", "1", private)
    attackers.fault("/blobs/", lambda answer: answer._replace(stall_at=10), method="GET", skip=2)
    shared.install(more="")  # with the real patience of 30 seconds
    hostile = shared.start(ATTACKER, f"{attackers.host}/x:1")
    until(lambda: attackers.count("GET", "/blobs/") >= 4)
    began = time.monotonic()
    has_secret(shared.run(ALICE, name))
    assert time.monotonic() - began < 15
    hostile.kill()


def test_image_holds_nothing_that_would_need_nosuid_or_nodev(shared, faulty):
    """Its user can take both off a detached mount (Linux lets whoever has a namespace of mounts)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number, (kind, mode) in enumerate(
            [(tarfile.REGTYPE, 0o6755), (tarfile.CHRTYPE, 0o666), (tarfile.BLKTYPE, 0o666)]
        ):
            info = tarfile.TarInfo(f"file{number}")
            info.type, info.mode, info.devmajor, info.devminor = kind, mode, 1, 3
            info.pax_headers = {"SCHILY.xattr.security.capability": "\1\0\0\2" + "\377" * 16}
            archive.addfile(info)
    shared.trust(faulty.host)
    name = faulty.add("x", "1", image([layer(out.getvalue())]))
    flags, *entries = shared.run(ATTACKER, name, look="loosened").seen.splitlines()
    assert flags in {"flags 1", "flags 7"}  # read-only it stays: the file system itself is
    # A device is skipped; what it would have replaced below is hidden by a whiteout, char 0:0, in
    # the layer, and by nothing at all in an index.
    assert sorted(entries) == ["./file0 100755 0 []"]
    next(shared.root.glob("indexes/*.erofs")).unlink()
    _, *entries = shared.run(ATTACKER, name, look="loosened").seen.splitlines()
    assert sorted(entries) == ["./file0 100755 0 []", "./file1 20000 0 []", "./file2 20000 0 []"]


# -- how long a proof holds ------------------------------------------------------------------------


def test_public_image_needs_no_login(shared, faulty, private):
    shared.trust(faulty.host)
    name = faulty.add("x/y", "1", private)
    for uid in (ALICE, BOB):
        has_secret(shared.run(uid, name))
    assert all("authorization" not in r.headers for r in faulty.requests)


def test_proof_holds_for_its_job_and_within_its_grace_and_ends_after_both(shared, faulty, private):
    name = stored(shared, faulty, private)
    faulty.fault("/manifests/", said(403, "DENIED", "your access was revoked"), method="GET")
    faulty.fault("/blobs/", said(403, "DENIED", "your access was revoked"))
    old(shared, ALICE, 1000)
    has_secret(shared.run(ALICE, name, job=JOB + 1))  # within the grace
    old(shared, ALICE, 7200)
    has_secret(shared.run(ALICE, name, job=JOB))  # within the job
    answer = shared.run(ALICE, name, job=JOB + 1)
    assert answer.error is not None
    assert answer.error[0] == "auth"
    assert "your access was revoked" in answer.error[1]


def test_grant_of_one_image_serves_no_other(shared, faulty, private):
    name = stored(shared, faulty, private)
    mine = image([layer({"mine": b"x"})])
    faulty.add("public/x", "1", mine)
    shared.log_in(BOB, faulty.host)
    shared.run(BOB, f"{faulty.host}/public/x:1")
    assert shared.grants(BOB) == [mine.digest.partition(":")[2]]
    (shared.home(BOB) / ".docker/config.json").unlink()
    answer = shared.run(BOB, name, digest=private.digest)
    assert answer.error is not None
    assert answer.error[0] == "auth"


# -- what the storekeeper is told, and where it stays ----------------------------------------------


def test_login_reaches_neither_the_store_nor_the_process_table(shared, faulty, private):
    faulty.scheme, faulty.login = "basic", ("alice", "open sesame")
    name = faulty.add("victim/x", "1", private)
    shared.trust(faulty.host)
    shared.log_in(ALICE, faulty.host)
    faulty.fault(private.layer_digests[1], lambda a: a._replace(stall_at=100), times=1)
    launch = shared.start(ALICE, name)
    keeper = launch.keeper()
    until(lambda: faulty.count("GET", private.layer_digests[1]))
    shown = " ".join([*keeper.cmdline(), *map(str, keeper.environ().items())])
    has_secret(launch.answer())
    secrets = ("open sesame", BASIC.split()[1])
    assert not [word for word in secrets if word in shown]
    for path in shared.root.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not [word for word in secrets if word.encode() in data], path


def test_storekeeper_reads_none_of_the_users_settings(shared, faulty, attackers, private):
    shared.trust(faulty.host)
    name = faulty.add("x/y", "1", private)
    config = shared.home(ALICE) / ".config/fairlead"
    config.mkdir(parents=True)
    (config / "fairlead.toml").write_text("nonsense that the storekeeper would stumble over")
    environ = {
        "XDG_CONFIG_HOME": "/nonexistent",  # the engine's own; HOME is the storekeeper's to ignore
        "http_proxy": f"http://{attackers.host}",
        "SSL_CERT_FILE": "/nonexistent",
        "PYTHONPATH": "/nonexistent",
        "FAIRLEAD_STORE_QUOTA": "1",
    }
    launch = shared.start(ALICE, name, environ=environ)
    keeper = launch.keeper()
    seen = set(keeper.environ())
    has_secret(launch.answer())
    assert seen <= {"PATH", "LANG", "HOME", "LC_CTYPE"}
    assert attackers.requests == []
