"""registries.conf in use: short names, mirrors, other places, blocked registries, the site's list."""

from __future__ import annotations

import base64
import json
import uuid

import pytest
from faulty_registry import FaultyRegistry, drop, said
from images import image, layer, push

from fairlead import config as settings
from fairlead import errors, keys
from fairlead.store import meaning

IMAGE = image([layer({"name": b"the image\n"})])
OTHER = image([layer({"name": b"another\n"})])
DEAD = "127.0.0.1:1"  # tcpmux: nobody listens


@pytest.fixture
def conf(bench, tmp_path):
    """Write the site's registries.conf; further settings may follow."""
    place = tmp_path / "containers"
    place.mkdir()
    bench.environ["FAIRLEAD_SITE_CONFIG"] = str(tmp_path / "fairlead.toml")

    def write(text, settings="", name="registries.conf"):
        path = place / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        (tmp_path / "fairlead.toml").write_text(f'containers_config = "{place}"\n{settings}')
        return path

    return write


@pytest.fixture
def mirror():
    with FaultyRegistry() as registry:
        yield registry


def content(found):
    with open(f"{found.rootfs}/name", encoding="utf-8") as file:
        return file.read()


def entry(location, *mirrors, more=""):
    text = f'[[registry]]\nlocation = "{location}"\n{more}\n'
    return text + "".join(f'[[registry.mirror]]\nlocation = "{name}"\n' for name in mirrors)


# -- mirrors ---------------------------------------------------------------------------------------


def test_mirror_serves_what_is_then_not_asked_of_the_registry(bench, conf, faulty, mirror):
    mirror.add("cache/demo/x", "1", IMAGE)
    conf(entry(f"{faulty.host}/demo", f"{mirror.host}/cache/demo"))
    found = bench.pull(f"{faulty.host}/demo/x:1")
    assert content(found) == "the image\n"
    assert found.reference == f"{faulty.host}/demo/x:1"
    assert faulty.requests == []


def test_dead_mirror_is_passed_over(bench, conf, quick, registry):
    repository = f"demo/{uuid.uuid4().hex[:12]}"
    digest = push(registry, repository, "1", IMAGE)
    conf(entry(registry, DEAD))
    found = bench.pull(f"{registry}/{repository}:1")
    assert (content(found), found.target) == ("the image\n", digest)


@pytest.mark.parametrize("code", [401, 403, 404, 500])
def test_mirror_that_refuses_is_passed_over(bench, conf, quick, faulty, mirror, code):
    mirror.fault("/v2/", said(code, "DENIED", "not here"))
    faulty.add("demo/x", "1", IMAGE)
    conf(entry(faulty.host, mirror.host))
    assert content(bench.pull(f"{faulty.host}/demo/x:1")) == "the image\n"
    assert mirror.count("GET", "/blobs/") == 0 or code == 500


def test_layer_that_breaks_at_a_mirror_goes_on_at_the_registry(bench, conf, quick, faulty, mirror):
    name = faulty.add("demo/x", "1", IMAGE)
    mirror.add("demo/x", "1", IMAGE)
    mirror.fault(IMAGE.layer_digests[0], drop())
    conf(entry(faulty.host, mirror.host))
    assert content(bench.pull(name)) == "the image\n"
    assert faulty.count("GET", IMAGE.layer_digests[0]) == 1


def test_mirror_with_other_content_for_a_digest_is_passed_over(bench, conf, faulty, mirror):
    faulty.add("demo/x", "1", IMAGE)
    mirror.add("demo/x", IMAGE.digest, OTHER)
    conf(entry(faulty.host, mirror.host))
    assert content(bench.pull(f"{faulty.host}/demo/x@{IMAGE.digest}")) == "the image\n"


def test_line_tells_what_mirror_and_registry_said(bench, conf, quick, faulty):
    conf(entry(f"{faulty.host}/demo", f"{DEAD}/demo"))
    assert bench.line("pull", "-q", f"{faulty.host}/demo/x:1") == (
        f"fairlead: error [image-not-found]: {faulty.host}/demo/x:1: the registry has no such "
        "image or tag: repository name not known to registry; before that "
        f"{DEAD}/demo/x:1: Connection refused (check the name and the tag)"
    )


def test_each_place_gets_its_own_login_only(bench, conf, faulty, mirror):
    mirror.scheme, mirror.login = "basic", ("bob", "mirror")
    faulty.scheme, faulty.login = "basic", ("alice", "secret")
    name = faulty.add("demo/x", "1", IMAGE)  # the mirror has none
    conf(entry(faulty.host, mirror.host))
    path = bench.home / ".docker/config.json"
    path.parent.mkdir()
    logins = {faulty.host: faulty.login, mirror.host: mirror.login}
    texts = {host: base64.b64encode(":".join(pair).encode()) for host, pair in logins.items()}
    auths = {host: {"auth": text.decode()} for host, text in texts.items()}
    path.write_text(json.dumps({"auths": auths}))
    assert content(bench.pull(name)) == "the image\n"
    for registry in (faulty, mirror):
        sent = {request.headers.get("authorization", "") for request in registry.requests}
        assert sent == {"", f"Basic {texts[registry.host].decode()}"}


def test_mirror_for_digests_is_not_asked_for_a_tag(bench, conf, faulty, mirror):
    name = faulty.add("demo/x", "1", IMAGE)
    mirror.add("demo/x", "1", IMAGE)
    conf(entry(faulty.host, mirror.host) + 'pull-from-mirror = "digest-only"\n')
    bench.pull(name)
    assert mirror.requests == []
    bench.run("rm", "--all")
    bench.pull(f"{faulty.host}/demo/x@{IMAGE.digest}")
    assert mirror.count("GET", IMAGE.layer_digests[0]) == 1


# -- other places ----------------------------------------------------------------------------------


def test_name_is_led_elsewhere_and_stays_the_user_s(bench, conf, faulty):
    faulty.add("team/x", "1", IMAGE)
    conf(f'[[registry]]\nprefix = "hub.example.org/demo"\nlocation = "{faulty.host}/team"\n')
    assert bench.pull("hub.example.org/demo/x:1").reference == "hub.example.org/demo/x:1"


def test_wildcard_leads_every_host_of_a_domain(bench, conf, faulty):
    faulty.add("demo/x", "1", IMAGE)
    conf(f'[[registry]]\nprefix = "*.example.org"\nlocation = "{faulty.host}"\n')
    assert content(bench.pull("a.b.example.org/demo/x:1")) == "the image\n"


def test_longest_prefix_decides(bench, conf, faulty, mirror):
    faulty.add("demo/x", "1", IMAGE)
    mirror.add("x", "1", OTHER)
    conf(
        f'[[registry]]\nprefix = "hub.example.org"\nlocation = "{faulty.host}"\n'
        f'[[registry]]\nprefix = "hub.example.org/demo"\nlocation = "{mirror.host}"\n'
    )
    assert content(bench.pull("hub.example.org/demo/x:1")) == "another\n"


def test_blocked_registry_is_refused_by_name_and_not_asked(bench, conf, faulty):
    name = faulty.add("demo/x", "1", IMAGE)
    path = conf(entry(f"{faulty.host}/demo", more="blocked = true"))
    assert bench.line("pull", "-q", name) == (
        f"fairlead: error [policy]: {name}: the registry {faulty.host}/demo is blocked by {path} "
        "(use what the file named allows, or ask the administrator)"
    )
    assert faulty.requests == []


def test_what_the_site_blocks_stays_blocked(bench, conf, faulty):
    name = faulty.add("demo/x", "1", IMAGE)
    path = conf(entry(faulty.host, more="blocked = true"))
    own = bench.home / ".config/containers/registries.conf"
    own.parent.mkdir(parents=True)
    own.write_text("")
    assert f"is blocked by {path} (" in bench.line("pull", "-q", name)


def test_user_s_own_file_leads_to_no_registry_that_the_site_blocks(bench, conf, faulty):
    name = faulty.add("demo/x", "1", IMAGE)
    path = conf(entry(faulty.host, more="blocked = true"))
    own = bench.home / ".config/containers/registries.conf"
    own.parent.mkdir(parents=True)
    own.write_text(f'[[registry]]\nprefix = "free.example"\nlocation = "{faulty.host}"\n')
    leads = name.replace(faulty.host, "free.example")
    assert f"is blocked by {path} (" in bench.line("pull", "-q", leads)
    assert faulty.requests == []


def test_registry_outside_of_the_site_s_list_is_not_asked(bench, conf, faulty):
    name = faulty.add("demo/x", "1", IMAGE)
    conf("", f'allowed_registries = ["*.example.org", "{faulty.host}/team"]')
    site = bench.environ["FAIRLEAD_SITE_CONFIG"]
    assert bench.line("pull", "-q", name) == (
        f"fairlead: error [policy]: {name}: {site} allows images from *.example.org, "
        f"{faulty.host}/team only (use an image from there, or ask the administrator)"
    )
    assert faulty.requests == []


def test_user_s_file_leads_no_allowed_name_to_a_registry_that_is_not(bench, conf, faulty):
    faulty.add("demo/x", "1", IMAGE)
    conf("", 'allowed_registries = ["hub.example.org"]')
    own = bench.home / ".config/containers/registries.conf"
    own.parent.mkdir(parents=True)
    own.write_text(f'[[registry]]\nprefix = "hub.example.org"\nlocation = "{faulty.host}"\n')
    line = bench.line("pull", "-q", "hub.example.org/demo/x:1")
    site = bench.environ["FAIRLEAD_SITE_CONFIG"]
    assert f"{faulty.host}/demo/x:1: {site} allows images from hub.example.org only" in line
    assert faulty.requests == []


def test_image_in_the_store_is_refused_once_its_registry_is_not_allowed(bench, conf, faulty):
    name = faulty.add("demo/x", "1", IMAGE)
    conf("")
    bench.pull(name)
    conf("", 'allowed_registries = ["hub.example.org"]')
    with pytest.raises(errors.PolicyError, match=r"allows images from hub\.example\.org only"):
        bench.pull(name, "never")


# -- short names -----------------------------------------------------------------------------------


def test_alias_says_what_a_short_name_means(bench, conf, faulty):
    faulty.add("team/tools", "2", IMAGE)
    conf(
        f'[aliases]\ntools = "{faulty.host}/team/tools"\n',
        name="registries.conf.d/50-site.conf",
    )
    done = bench.run("pull", "-q", "tools:2")
    assert (done.returncode, done.stdout) == (
        0,
        f"{faulty.host}/team/tools@{IMAGE.digest}\n",
    ), done.stderr


def test_search_list_of_one_is_used(bench, conf, faulty):
    faulty.add("tools", "latest", IMAGE)
    conf(f'unqualified-search-registries = ["{faulty.host}"]\nshort-name-mode = "enforcing"\n')
    assert bench.run("pull", "-q", "tools").stdout.startswith(f"{faulty.host}/tools@")


def test_short_name_for_several_is_refused_if_none_may_be_chosen(bench, conf):
    path = conf(
        'unqualified-search-registries = ["a.example", "b.example/x"]\n'
        'short-name-mode = "enforcing"\n'
    )
    assert bench.line("pull", "-q", "tools") == (
        "fairlead: error [reference]: tools: is short for any of a.example/tools, "
        f"b.example/x/tools, and {path} lets none be chosen (write one of them)"
    )


def test_first_of_the_search_list_that_has_the_image_is_taken(bench, conf, quick, faulty, mirror):
    faulty.add("other", "1", OTHER)
    mirror.add("tools", "1", IMAGE)
    conf(f'unqualified-search-registries = ["{faulty.host}", "{mirror.host}"]\n')
    assert bench.run("pull", "-q", "tools:1").stdout == f"{mirror.host}/tools@{IMAGE.digest}\n"
    never = {"FAIRLEAD_PULL": "never", **bench.environ}
    found = meaning.of("tools:1", settings.load(never), None, never)
    assert str(found) == f"{mirror.host}/tools:1"
    assert bench.line("pull", "-q", "nothing:1") == (
        "fairlead: error [image-not-found]: nothing:1: "
        f"{faulty.host}/nothing:1: the registry has no such image or tag: repository name not "
        f"known to registry; {mirror.host}/nothing:1: the registry has no such image or tag: "
        "repository name not known to registry (write the registry, too)"
    )


def test_default_registry_that_somebody_set_beats_registries_conf(bench, conf, faulty):
    faulty.add("tools", "1", IMAGE)
    conf('unqualified-search-registries = ["a.example"]\n[aliases]\ntools = "b.example/tools"\n')
    done = bench.run("pull", "-q", "tools:1", FAIRLEAD_DEFAULT_REGISTRY=faulty.host)
    assert done.returncode == 0, done.stderr


# -- the files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            '[registries.search]\nregistries = ["a"]\n',
            (
                "is in version 1 of its format, which is not supported (write [[registry]] and "
                "unqualified-search-registries instead)"
            ),
        ),
        ("x =", "Invalid value (at end of document) (correct the file named)"),
        (
            '[[registry]]\nlocation = "https://a.example"\n',
            (
                "registry https://a.example: 'https://a.example' is no HOST[:PORT][/NAME...] "
                "(correct the file named)"
            ),
        ),
        (
            '[[registry]]\nlocation = "a.example"\nblocked = "yes"\n',
            "registry a.example: blocked is not true or false (correct the file named)",
        ),
        (
            'short-name-mode = "maybe"',
            (
                "short-name-mode = 'maybe' is not enforcing, permissive or disabled "
                "(correct the file named)"
            ),
        ),
    ],
)
def test_malformed_file_is_named(bench, conf, text, why):
    path = conf(text)
    line = bench.line("pull", "-q", "a.example/x:1")
    assert line == f"fairlead: error [config]: {path}: {why}"


def test_file_of_the_variable_takes_the_place_of_the_others(bench, conf, faulty, tmp_path):
    faulty.add("demo/x", "1", IMAGE)
    conf("")
    own = tmp_path / "own.conf"
    own.write_text(f'[[registry]]\nprefix = "hub.example.org"\nlocation = "{faulty.host}"\n')
    name = "hub.example.org/demo/x:1"
    done = bench.run("pull", "-q", name, CONTAINERS_REGISTRIES_CONF=str(own))
    assert done.returncode == 0, done.stderr
    gone = f"{own}.gone"
    assert bench.line("pull", "-q", name, CONTAINERS_REGISTRIES_CONF=gone) == (
        f"fairlead: error [config]: {gone}: No such file or directory (correct the file named)"
    )


# -- fairlead config -------------------------------------------------------------------------------


def test_config_shows_every_value_with_its_origin(bench, conf):
    conf("", 'pull = "always"\nlocked = ["pull", "mpi"]')
    site = bench.environ["FAIRLEAD_SITE_CONFIG"]
    shown = bench.run("config", FAIRLEAD_MPI="auto").stdout.splitlines()
    assert len(shown) == len(keys.SETTINGS)
    rows = dict(row.split("  # ") for row in (" ".join(r.split(" ")) for r in shown))
    assert rows[next(key for key in rows if key.startswith("pull = "))] == f"{site}, locked"
    table = json.loads(bench.run("config", "--json", FAIRLEAD_MPI="auto").stdout)
    assert table["mpi"] == {"value": "auto", "origin": "$FAIRLEAD_MPI, locked"}
    assert table["store_quota"] == {"value": "", "origin": "default"}
    assert bench.run("config", "pull").stdout == "always\n"
    assert bench.run("config", "locked").stdout == "pull\nmpi\n"
    assert bench.line("config", "pul") == (
        "fairlead: error [config]: command line: unknown key 'pul' (did you mean pull?)"
    )


def test_config_check_names_what_is_wrong_and_what_is_right(bench, conf, tmp_path):
    folder = tmp_path / "containers"
    main = conf("", 'site_mounts = ["/x:y"]')
    (folder / "policy.json").write_text("{}")
    (folder / "registries.d").mkdir()
    (folder / "registries.d/a.yaml").write_text("docker: [1")
    site = bench.environ["FAIRLEAD_SITE_CONFIG"]
    done = bench.run("config", "--check")
    lines = done.stdout.splitlines()
    assert done.returncode == 125
    assert lines[0].startswith(f"wrong  settings: {site}: site_mounts: '/x:y' ")
    assert lines[1] == f"ok     registries.conf: {main}"
    assert lines[2] == (
        f"wrong  policy.json: {folder}/policy.json: must hold default, may hold transports, and "
        "nothing else (correct the file named)"
    )
    assert lines[3].startswith(f"wrong  registries.d: {folder}/registries.d/a.yaml: ")
    (folder / "policy.json").unlink()
    (folder / "registries.d/a.yaml").write_text("docker: {}")
    conf("")
    assert bench.run("config", "--check").returncode == 0
