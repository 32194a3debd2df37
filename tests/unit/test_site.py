"""The site store's layout: what is read is exactly what is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead import errors
from fairlead.shared import site
from fairlead.store.layout import Store

A, B = "a" * 64, "b" * 64
TEXT = f"fairlead-grant 1\nuid 1000\njob 7\nsize 123\nlayer {A}\nlayer {B}\n"
WITH_INJECTION = f"{TEXT}injection {B} 17\ninjection {A} 0\n"
WITH_INDEX = TEXT.replace("size 123\n", f"size 123\nindex {B} 9\n")
GRANT = site.Grant(1000, 7, 123, (A, B))
INFO = site.LayerInfo(
    A, f"sha256:{A}", 4096, "crc32:0badcafe", 3, 17, True, ("https://x:443 sha256:0",)
)
STORE = Store("/s")

names = st.text("0123456789abcdef", min_size=64, max_size=64)


INDEX = site.IndexInfo(A, 4096, "crc32:0badcafe", (A, B))


def test_paths_are_those_of_the_drawing():
    assert site.index_path(STORE, A) == f"/s/indexes/{A}.erofs"
    assert site.index_info_path(STORE, A) == f"/s/indexes/{A}.json"
    assert site.injection_path(STORE, A) == f"/s/injections/{A}.erofs"
    assert site.injection_info_path(STORE, A) == f"/s/injections/{A}.json"
    assert site.layer_path(STORE, A) == f"/s/layers/{A}.erofs"
    assert site.info_path(STORE, A) == f"/s/layers/{A}.json"
    assert site.grants_path(STORE, 7) == "/s/grants/7"
    assert site.grant_path(STORE, 7, A) == f"/s/grants/7/{A}"
    assert site.lease_path(STORE, 12, A) == f"/s/leases/12.{A}"


def test_every_digest_has_a_name_of_sixty_four_digits():
    assert site.name_of(f"sha256:{A}") == A
    other = site.name_of("sha512:" + "c" * 128)
    assert site.is_name(other)
    assert other != site.name_of("sha512:" + "d" * 128)


@pytest.mark.parametrize("text", ["", "a" * 63, "A" * 64, "a" * 64 + "\n", "../" + "a" * 61])
def test_other_words_are_no_names(text):
    assert not site.is_name(text)


def test_lease_is_its_name():
    assert site.parse_lease(site.lease_name(12, A)) == (12, A)


@pytest.mark.parametrize(
    "name", [A, f"012.{A}", f"0.{A}", f"-1.{A}", f"4294967295.{A}", f"1.{A}x", f"1.{A}\n", "1."]
)
def test_other_names_are_no_leases(name):
    assert site.parse_lease(name) is None


def test_grant_is_the_text_that_the_broker_reads():
    assert site.format_grant(GRANT) == TEXT
    assert site.parse_grant(TEXT, "g") == GRANT
    indexed, text = GRANT._replace(index_name=B, index_bytes=9), WITH_INDEX
    assert site.format_grant(indexed) == text
    assert site.parse_grant(text, "g") == indexed
    injected = GRANT._replace(injections=((B, 17), (A, 0)))
    assert site.format_grant(injected) == WITH_INJECTION
    assert site.parse_grant(WITH_INJECTION, "g") == injected


@given(
    st.integers(0, site.MAX_ID),
    st.integers(0, site.MAX_ID),
    st.integers(0, site.MAX_SIZE),
    st.lists(names, max_size=5),
)
def test_grants_survive_the_disk(uid, job, size, layers):
    grant = site.Grant(uid, job, size, tuple(layers))
    assert site.parse_grant(site.format_grant(grant), "g") == grant


@pytest.mark.parametrize(
    "text",
    [
        "",
        TEXT[:-1],
        TEXT + "\n",
        " " + TEXT,
        TEXT.replace("grant 1", "grant 2"),
        TEXT.replace("uid 1000", "uid 01000"),
        TEXT.replace("uid 1000", "uid +1"),
        TEXT.replace("uid 1000", "uid 4294967295"),
        TEXT.replace("uid 1000", "uid 1000 "),
        TEXT.replace("uid 1000", "uid \u0661"),
        TEXT.replace("uid 1000\njob 7", "job 7\nuid 1000"),
        TEXT.replace("size 123\n", ""),
        TEXT.replace("size 123", f"size {1 << 63}"),
        TEXT.replace("layer a", "layer  a"),
        TEXT.replace(f"layer {A}", f"layer ../{A}"),
        TEXT.replace(f"layer {A}", f"layer {A.upper()}"),
        TEXT.replace(f"layer {A}", f"Layer {A}"),
        TEXT.replace("\n", "\r\n"),
        TEXT + f"layer {A}\n" * 1023,
        WITH_INJECTION + f"layer {A}\n",
        WITH_INJECTION.replace(f"injection {A} 0", f"injection {A}"),
        WITH_INJECTION.replace(f"injection {A} 0", f"injection {A} 00"),
        WITH_INJECTION.replace(f"injection {A}", f"injection ../{A}"),
        TEXT + f"injection {A} 1\n" * 17,
        TEXT.replace(f"layer {A}\nlayer {B}\n", f"injection {A} 1\n"),
        TEXT + "x" * site.MAX_GRANT_BYTES + "\n",
        WITH_INDEX.replace(" 9", ""),
        WITH_INDEX.replace(" 9", " 09"),
        WITH_INDEX.replace(" 9", " -9"),
        WITH_INDEX.replace(" 9", " 9 9"),
        WITH_INDEX.replace("index b", "index ../"),
        WITH_INDEX.replace("index ", "index  "),
        WITH_INDEX.replace(f"index {B} 9\n", f"index {B} 9\n" * 2),
        TEXT + f"index {B} 9\n",
    ],
)
def test_other_texts_are_no_grants(text):
    with pytest.raises(errors.StoreError, match=r"^the grant: "):
        site.parse_grant(text, "the grant")


def test_grant_of_the_longest_image_fits():
    grant = site.Grant(site.MAX_ID, site.MAX_ID, site.MAX_SIZE, (A,) * 1024)
    assert site.parse_grant(site.format_grant(grant), "g") == grant


def test_description_of_a_layer_survives_the_disk():
    assert site.parse_info(site.format_info(INFO), "i") == INFO
    assert site.parse_index(site.format_info(INDEX), "i") == INDEX


def test_description_of_before_markers_were_counted_may_have_some():
    text = site.format_info(INFO._replace(markers=0)).replace(b',\n "markers": 0', b"")
    assert b"markers" not in text
    assert site.parse_info(text, "i").markers == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../x"},
        {"digest": A},
        {"size": True},
        {"size": -1},
        {"layers": A},
        {"layers": ("x",)},
        {"layers": (1,)},
        {"layers": None},
    ],
)
def test_other_descriptions_of_an_index_are_refused(changes):
    with pytest.raises(errors.StoreError, match=r"^the file: "):
        site.parse_index(site.format_info(INDEX._replace(**changes)), "the file")
    with pytest.raises(errors.StoreError):
        site.parse_index(site.format_info(INFO), "the file")


@pytest.mark.parametrize(
    "changes",
    [
        {"layer": "../x"},
        {"digest": f"sha256:{A}"},
        {"digest": "crc32:0BADCAFE"},
        {"digest": A},
        {"size": True},
        {"size": -1},
        {"bytes": 1 << 63},
        {"markers": None},
        {"alone": 1},
        {"origins": "https://x"},
        {"origins": [1]},
        {"diff_id": None},
    ],
)
def test_other_descriptions_are_refused(changes):
    with pytest.raises(errors.StoreError, match=r"^the file: "):
        site.parse_info(site.format_info(INFO._replace(**changes)), "the file")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 50_000,
        site.format_info(INFO).replace(b'"size"', b'"sighs"'),
        site.format_info(INFO) + b" " * site.MAX_INFO_BYTES,
    ],
)
def test_what_is_no_description_is_refused(data):
    with pytest.raises(errors.StoreError):
        site.parse_info(data, "i")
