"""Settings: later wins, each value knows its origin, and a mistake names its file."""

import pytest

from fairlead import config, errors, keys


def load(tmp_path, text="", environ=None, user=""):
    site = tmp_path / "site.toml"
    site.write_text(text)
    (tmp_path / "cfg/fairlead").mkdir(parents=True)
    (tmp_path / "cfg/fairlead/fairlead.toml").write_text(user)
    return config.load(
        {"XDG_CONFIG_HOME": str(tmp_path / "cfg"), **(environ or {})}, site_file=str(site)
    )


def test_later_wins_and_origin_is_known(tmp_path):
    settings = load(
        tmp_path, 'mpi = "host"\npull = "never"', {"FAIRLEAD_PULL": "always"}, 'mpi = "image"'
    )
    assert (settings.mpi, settings.pull) == ("image", "always")
    assert settings.origins["mpi"].endswith("cfg/fairlead/fairlead.toml")
    assert settings.origins["pull"] == "$FAIRLEAD_PULL"
    assert settings.origins["store"] == "default"


def test_unknown_key_names_the_file_and_the_nearest_key(tmp_path):
    with pytest.raises(errors.ConfigError, match=r"site\.toml: unknown key 'stor'.*") as caught:
        load(tmp_path, 'stor = "/x"')
    assert "did you mean store?" in caught.value.line()


@pytest.mark.parametrize(
    "text", ["mpi = 3", 'mpi = "both"', 'insecure_registries = "x"', "writable = 1", "x ="]
)
def test_wrong_values_are_refused(tmp_path, text):
    with pytest.raises(errors.ConfigError, match=r"site\.toml"):
        load(tmp_path, text)


def test_variable_that_is_no_boolean_is_refused(tmp_path):
    with pytest.raises(errors.ConfigError, match="FAIRLEAD_WRITABLE"):
        load(tmp_path, environ={"FAIRLEAD_WRITABLE": "perhaps"})


def test_override_keeps_what_is_none(tmp_path):
    settings = load(tmp_path).override("command line", mpi="host", pull=None)
    assert (settings.mpi, settings.origins["mpi"]) == ("host", "command line")
    assert settings.pull == "newer"


def test_lists_come_from_variables_too(tmp_path):
    assert load(
        tmp_path, environ={"FAIRLEAD_INSECURE_REGISTRIES": "a:1, b"}
    ).insecure_registries == ("a:1", "b")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("3K", 3072),
        ("50G", 50 << 30),
        ("2T", 2 << 40),
        ("80%", 800),
        ("100%", 1000),
    ],
)
def test_sizes(text, size):
    assert keys.size_bytes(text, 1000) == size


@pytest.mark.parametrize(
    "text", ["", "G", "-1", "+1", "1.5G", "1 G", "1g", "1GB", "101%", "1%K", "\u0663", "9" * 16]
)
def test_other_words_are_no_sizes(text):
    assert keys.size_bytes(text, 1000) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('store_quota = "much"', "store_quota = 'much' is not a size like"),
        ('store_min_free = "120%"', "is not a size like"),
        ('shared_blobs = "blobs"', "is not an absolute path"),
        ("keep_blobs = 1", "keep_blobs must be bool"),
    ],
)
def test_settings_of_the_store_are_strict(tmp_path, text, words):
    with pytest.raises(errors.ConfigError, match=words):
        load(tmp_path, text)
