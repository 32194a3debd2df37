"""registries.conf and scopes: which files count, what a name belongs to, where it is led."""

from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead import config as settings
from fairlead import errors
from fairlead.image import mirrors, policy, reference, registries, scopes

DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def files(tmp_path):
    """Write files of the site's and the user's; ``load`` reads them."""
    site = tmp_path / "site.toml"
    site.write_text(f'containers_config = "{tmp_path}/etc"\n')

    class Files:
        environ = MappingProxyType(
            {"HOME": str(tmp_path / "home"), "FAIRLEAD_SITE_CONFIG": str(site)}
        )
        etc, own = tmp_path / "etc", tmp_path / "home/.config/containers"

        def write(self, path, text):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            return path

        @property
        def config(self):
            return settings.load(self.environ)

        def load(self, **more):
            return registries.load(self.config, self.environ, **more)

        def mean(self, text):
            short = reference.parse(text, default_registry="x.invalid")
            return [str(m) for m in registries.meanings(short, text, self.config, self.environ)]

    return Files()


def led(found, text):
    return [str(place.reference) for place in registries.endpoints(found, reference.parse(text))]


# -- scopes ----------------------------------------------------------------------------------------


def test_scopes_go_from_the_image_to_the_domain():
    assert list(scopes.of(reference.parse("a.b.example:5000/ns/x:1"))) == [
        *("a.b.example:5000/ns/x:1", "a.b.example:5000/ns/x", "a.b.example:5000/ns"),
        *("a.b.example:5000", "*.b.example", "*.example"),
    ]
    assert list(scopes.of(reference.parse(f"localhost/x:1@{DIGEST}"))) == [
        *(f"localhost/x@{DIGEST}", "localhost/x:1", "localhost/x", "localhost"),
    ]


@pytest.mark.parametrize(
    ("name", "scope", "belongs"),
    [
        ("a.example/ns/x:1", "a.example/ns", True),
        ("a.example/ns2/x:1", "a.example/ns", False),
        ("a.example/n/x:1", "a.example/ns", False),
        ("a.example/ns/x:1", "a.example/ns/x:1", True),
        ("a.example/ns/x:12", "a.example/ns/x:1", False),
        ("xa.example/x", "a.example", False),
        ("a.example.org/x", "a.example", False),
        ("a.example:5000/x", "a.example", True),
        ("a.example:5000/x", "a.example:500", False),
        ("a.b.example/x", "*.example", True),
        ("a.b.example/x", "*.b.example", True),
        ("b.example/x", "*.b.example", False),
        ("ab.example/x", "*.b.example", False),
        ("a.b.example:5000/x", "*.b.example", True),
        ("ubuntu", "docker.io/library", True),
    ],
)
def test_scope_is_compared_by_component(name, scope, belongs):
    assert (scopes.matching(reference.parse(name), [scope]) == scope) is belongs


PART = st.from_regex(r"[a-z0-9]{1,5}", fullmatch=True)


@given(st.lists(PART, min_size=2, max_size=4), st.lists(PART, min_size=1, max_size=4))
def test_every_scope_of_a_name_is_found_and_no_longer_one(host, names):
    ref = reference.parse(f"{'.'.join(host)}.example/{'/'.join(names)}:t")
    found = list(scopes.of(ref))
    for number, scope in enumerate(found):
        assert scopes.matching(ref, found[number:]) == scope
        assert scopes.matching(ref, [f"{scope}0", f"0{scope}"]) is None


# -- files -----------------------------------------------------------------------------------------


def test_drop_ins_are_read_in_order_and_replace_by_prefix(files):
    folder = files.etc / "registries.conf.d"
    files.write(files.etc / "registries.conf", 'unqualified-search-registries = ["a.example"]')
    files.write(folder / "20-b.conf", '[[registry]]\nlocation = "x.example"\nblocked = true')
    files.write(folder / "30-c.conf", '[[registry]]\nlocation = "x.example"')
    files.write(folder / "10-a.conf", '[aliases]\none = "a.example/one"\ntwo = "a.example/two"')
    files.write(folder / "90-z.txt", "x =")
    files.write(files.own / "registries.conf.d/a.conf", '[aliases]\ntwo = ""\none = "b.example/1"')
    found = files.load()
    assert found.search == ("a.example",)
    assert found.table["x.example"].blocked is False
    assert found.aliases == {"one": ("b.example/1", f"{files.own}/registries.conf.d/a.conf")}
    assert files.load(site=True).aliases["two"][0] == "a.example/two"


def test_user_s_file_takes_the_place_of_the_site_s(files):
    files.write(files.etc / "registries.conf", '[[registry]]\nlocation = "x.example"')
    files.write(files.own / "registries.conf", '[[registry]]\nlocation = "y.example"')
    assert set(files.load().table) == {"y.example"}
    assert set(files.load(site=True).table) == {"x.example"}


def test_unreadable_kind_of_file_is_an_error(files):
    (files.etc / "registries.conf").mkdir(parents=True)
    with pytest.raises(errors.ConfigError, match="is not a regular file"):
        files.load()


# -- where a name is led ---------------------------------------------------------------------------


def test_prefix_is_replaced_and_mirrors_come_first(files):
    files.write(
        files.etc / "registries.conf",
        '[[registry]]\nprefix = "hub.example/a"\nlocation = "in.example:5000/b"\ninsecure = true\n'
        '[[registry.mirror]]\nlocation = "m.example"\n'
        '[[registry.mirror]]\nlocation = "t.example/x"\npull-from-mirror = "tag-only"\n',
    )
    found = files.load()
    assert led(found, "hub.example/a/x:1") == [
        *("m.example/x:1", "t.example/x/x:1", "in.example:5000/b/x:1"),
    ]
    assert led(found, f"hub.example/a/x@{DIGEST}") == [
        *(f"m.example/x@{DIGEST}", f"in.example:5000/b/x@{DIGEST}"),
    ]
    assert led(found, "hub.example/ab/x:1") == ["hub.example/ab/x:1"]
    places = registries.endpoints(found, reference.parse("hub.example/a/x:1"))
    assert [place.insecure for place in places] == [False, False, True]


def test_wildcard_replaces_the_host_and_keeps_the_port(files):
    text = '[[registry]]\nprefix = "*.example"\nlocation = "in.test/all"\n'
    files.write(files.etc / "registries.conf", text)
    assert led(files.load(), "a.b.example/x:1") == ["in.test/all/x:1"]
    files.write(files.etc / "registries.conf", '[[registry]]\nprefix = "*.example"\n')
    assert led(files.load(), "a.b.example:5/x:1") == ["a.b.example:5/x:1"]


def test_login_of_a_named_user_is_not_looked_for_at_a_mirror(files):
    text = '[[registry]]\nlocation = "hub.example"\n[[registry.mirror]]\nlocation = "m.example"\n'
    files.write(files.etc / "registries.conf", text)
    found = registries.endpoints(files.load(), reference.parse("alice@hub.example#x"))
    assert [place.reference.user for place in found] == [None, "alice"]


def test_user_s_files_lead_elsewhere_than_the_site_s(files):
    def same():
        places = mirrors.places(files.config, files.environ)
        return places.is_as_by_site(reference.parse("hub.example/x"))

    text = '[[registry]]\nlocation = "hub.example"\n[[registry.mirror]]\nlocation = "m.example"\n'
    files.write(files.etc / "registries.conf", text)
    assert same()
    files.write(files.own / "registries.conf", "")
    assert not same()


# -- short names -----------------------------------------------------------------------------------


def test_short_name_without_any_file_is_of_the_default_registry(files):
    assert files.mean("tools:1") == ["docker.io/library/tools:1"]


def test_alias_keeps_tag_and_digest(files):
    files.write(files.etc / "registries.conf", '[aliases]\n"ns/tools" = "a.example/b/tools"')
    assert files.mean("ns/tools:1") == ["a.example/b/tools:1"]
    assert files.mean(f"ns/tools@{DIGEST}") == [f"a.example/b/tools@{DIGEST}"]
    assert files.mean("tools:1") == ["docker.io/library/tools:1"]


def test_alias_without_a_registry_is_refused(files):
    path = files.write(files.etc / "registries.conf", '[aliases]\ntools = "other"')
    with pytest.raises(errors.ConfigError) as caught:
        files.mean("tools")
    assert caught.value.message == f"{path}: tools: other names no registry"


def test_search_list_gives_all_in_order_if_permissive(files):
    text = 'unqualified-search-registries = ["b.example", "a.example"]'
    files.write(files.etc / "registries.conf", text)
    assert files.mean("t") == ["b.example/t:latest", "a.example/t:latest"]


# -- the site's list -------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "fine"), [("a.example/ns/x", True), ("a.example/x", False)])
def test_list_of_allowed_registries(files, name, fine):
    config = files.config.override("site", allowed_registries=("a.example/ns",))
    if fine:
        policy.check_registry(reference.parse(name), config)
        policy.check_registry(reference.parse("/scratch/x.sqsh"), config)
    else:
        with pytest.raises(errors.PolicyError, match=r"site allows images from a\.example/ns only"):
            policy.check_registry(reference.parse(name), config)


# -- who knows logins ------------------------------------------------------------------------------


def test_credential_helpers_of_the_last_file_that_has_some_count(files):
    assert files.load().helpers == ()
    files.write(
        files.etc / "registries.conf", 'credential-helpers = ["a", "containers-auth.json"]\n'
    )
    assert files.load().helpers == ("a", "containers-auth.json")
    files.write(files.own / "registries.conf.d/x.conf", 'credential-helpers = ["b"]\n')
    assert files.load().helpers == ("b",)


def test_credential_helper_that_is_no_name_is_refused(files):
    path = files.write(files.etc / "registries.conf", "credential-helpers = [1]\n")
    with pytest.raises(errors.ConfigError) as caught:
        files.load()
    assert caught.value.message == f"{path}: credential-helpers holds something that is no name"
