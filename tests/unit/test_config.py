"""Settings: later wins, each value knows its origin, and a mistake names its file."""

import pytest

from fairlead import config, errors


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
