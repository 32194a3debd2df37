"""What the site binds: drop-ins, locked keys, keys that are its alone; mounts and variables for all."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead import config, errors, forms
from fairlead.plan.request import Request, Volume
from fairlead.run import rules


@pytest.fixture
def site(tmp_path):
    """Write the site's files; ``load`` reads them and the user's."""

    class Site:
        file, folder = tmp_path / "etc/fairlead.toml", tmp_path / "etc/fairlead.d"
        own = tmp_path / "home/.config/fairlead/fairlead.toml"

        def write(self, path, text):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

        def load(self, **environ):
            environ = {"HOME": str(tmp_path / "home"), **environ}
            return config.load(environ, site_file=str(self.file))

    return Site()


def line(call):
    with pytest.raises(errors.Error) as caught:
        call()
    return caught.value.line()


# -- files -----------------------------------------------------------------------------------------


def test_drop_ins_win_over_the_file_by_name_and_yield_to_the_user(site):
    site.write(site.file, 'pull = "never"\nmpi = "host"\nupper = "disk"')
    site.write(site.folder / "20-b.toml", 'pull = "always"')
    site.write(site.folder / "10-a.toml", 'pull = "missing"\nmpi = "image"')
    site.write(site.folder / "30-c.txt", "x =")
    site.write(site.own, 'upper = "memory"')
    found = site.load()
    assert (found.pull, found.mpi, found.upper) == ("always", "image", "memory")
    assert found.origins["pull"] == f"{site.folder}/20-b.toml"
    assert config.files({}, site_file=str(site.file), home="/h") == (
        str(site.file),
        str(site.folder),
        f"{site.folder}/10-a.toml",
        f"{site.folder}/20-b.toml",
        "/h/.config/fairlead/fairlead.toml",
    )


def test_key_of_the_site_s_alone_is_refused_in_a_user_s_file(site):
    site.write(site.own, 'allowed_registries = ["evil.example"]')
    assert line(site.load) == (
        f"error [config]: {site.own}: allowed_registries is the administrator's to set "
        f"(it belongs into {site.file})"
    )


def test_key_of_the_site_s_alone_has_no_variable(site):
    assert site.load(FAIRLEAD_ALLOWED_REGISTRIES="evil.example").allowed_registries == ()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            'allowed_registries = ["https://a"]',
            "allowed_registries: 'https://a' is not HOST[:PORT][/NAME...] or *.DOMAIN",
        ),
        (
            'allowed_registries = ["a.*.b"]',
            "allowed_registries: 'a.*.b' is not HOST[:PORT][/NAME...] or *.DOMAIN",
        ),
        ('forbidden_mounts = [""]', "forbidden_mounts: '' is not an absolute path"),
        ('allowed_mounts = ["scratch"]', "allowed_mounts: 'scratch' is not an absolute path"),
        ('locked = ["pul"]', "locked: 'pul' is not a key of this file"),
        (
            'site_env = ["1=2"]',
            "site_env: '1=2' is not NAME=VALUE, NAME+=VALUE, NAME^=VALUE or -NAME",
        ),
        (
            'site_mounts = ["scratch:/x"]',
            "site_mounts: 'scratch:/x' is not SRC[:DST[:FLAG+FLAG]] or tmpfs:DST, from /",
        ),
    ],
)
def test_malformed_value_is_named(site, text, why):
    site.write(site.file, text)
    assert line(site.load) == f"error [config]: {site.file}: {why} (correct the file named)"


# -- locks -----------------------------------------------------------------------------------------


def test_locked_key_cannot_be_set_otherwise(site):
    drop_in = site.folder / "lock.toml"
    site.write(site.file, 'pull = "always"\nmpi = "host"')
    site.write(drop_in, 'locked = ["pull", "mpi", "writable"]')
    site.write(site.own, 'pull = "always"')  # says the same
    found = site.load(FAIRLEAD_WRITABLE="yes")
    assert found.override(config.COMMAND_LINE, mpi="host", pull=None).pull == "always"
    tail = f"is locked by {drop_in} (leave it out)"
    assert line(lambda: found.override(config.COMMAND_LINE, mpi="image")) == (
        f"error [config]: command line: mpi {tail}"
    )
    assert line(lambda: site.load(FAIRLEAD_WRITABLE="no")) == (
        f"error [config]: $FAIRLEAD_WRITABLE: writable {tail}"
    )
    site.write(site.own, 'pull = "never"')
    assert line(site.load) == f"error [config]: {site.own}: pull {tail}"


def test_launch_cannot_ask_otherwise_than_a_lock(site):
    site.write(site.file, 'locked = ["mpi", "mount_home"]')
    found = site.load()
    asked = Request("x", ("true",), {}, "/")
    assert rules.request(asked, found) == asked
    assert line(lambda: rules.request(asked._replace(mpi="image"), found)) == (
        f"error [config]: the launch: mpi is locked by {site.file} (leave it out)"
    )


def test_locked_choice_of_gpus_is_no_option_s(site):
    site.write(site.file, 'locked = ["gpu"]\ngpu = "none"')
    asked = Request("x", ("true",), {}, "/", gpu="all")
    assert line(lambda: rules.request(asked, site.load())) == (
        f"error [config]: the launch: gpu is locked by {site.file} (leave it out)"
    )
    assert rules.request(asked._replace(gpu="none"), site.load()).gpu == "none"


def test_job_s_directory_is_a_mount_like_others(site, tmp_path):
    (tmp_path / "secret/x").mkdir(parents=True)
    site.write(site.file, f'forbidden_mounts = ["{tmp_path}/secret"]')
    asked = Request("x", ("true",), {}, f"{tmp_path}/secret/x")
    assert line(lambda: rules.request(asked, site.load())) == (
        f"error [policy]: {tmp_path}/secret/x: {site.file} forbids {tmp_path}/secret "
        "(start from another directory)"
    )
    assert rules.request(asked._replace(cwd="/usr"), site.load()).cwd == "/usr"


@pytest.mark.parametrize("key", ["locked", "allowed_registries", "forbidden_mounts", "hooks_dirs"])
def test_variable_cannot_name_another_site_file_where_the_site_s_own_binds(site, tmp_path, key):
    site.write(site.file, f'{key} = [{{"locked": "pull"}}.get("{key}", "/x")]'.replace("[{", "["))
    value = {"locked": "pull", "allowed_registries": "a.example"}.get(key, "/x")
    site.write(site.file, f'{key} = ["{value}"]')
    assert line(lambda: site.load(FAIRLEAD_SITE_CONFIG=str(tmp_path / "mine.toml"))) == (
        f"error [config]: $FAIRLEAD_SITE_CONFIG: {site.file} sets {key}, which binds (leave it out)"
    )
    site.write(site.file, 'pull = "never"')
    assert site.load(FAIRLEAD_SITE_CONFIG=str(tmp_path / "mine.toml")).pull == "newer"


# -- mounts ----------------------------------------------------------------------------------------


def judged(site, tmp_path, *sources, **lists):
    """Return the mounts that become of sources, or the line that refuses one."""
    text = "".join(f"{key} = [{', '.join(repr(p) for p in v)}]\n" for key, v in lists.items())
    site.write(site.file, text.replace("'", '"'))
    volumes = tuple(Volume(source, "/in") for source in sources)
    asked = Request("x", ("true",), {}, "/", volumes=volumes)
    try:
        return [volume.source for volume in rules.request(asked, site.load()).volumes]
    except errors.PolicyError as error:
        return (
            error.line()
            .removeprefix("error [policy]: ")
            .removesuffix(" (use what the file named allows, or ask the administrator)")
        )


@pytest.fixture
def disk(tmp_path):
    for name in ("scratch/a", "scratch2", "etc"):
        (tmp_path / "disk" / name).mkdir(parents=True)
    os.symlink("../etc", tmp_path / "disk/scratch/link")
    os.symlink("scratch", tmp_path / "disk/alias")
    return f"{tmp_path}/disk"


@pytest.mark.parametrize(
    ("source", "leads"),
    [
        ("scratch", "scratch"),
        ("scratch/a/../a", "scratch/a"),
        ("alias/a", "scratch/a"),
        ("scratch/new", "scratch/new"),
        ("scratch2", None),
        ("scratch/../etc", None),
        ("scratch/link", None),
        ("scratch/link/../scratch2", None),
        ("", None),
    ],
)
def test_mount_outside_of_what_is_allowed_is_refused(site, tmp_path, disk, source, leads):
    allowed = f"{disk}/scratch"
    found = judged(site, tmp_path, f"{disk}/{source}", allowed_mounts=[allowed])
    if leads:
        assert found == [f"{disk}/{leads}"]
    else:
        assert found.endswith(f" {site.file} allows {allowed} only")


def test_forbidden_mount_is_refused_from_above_and_below_and_by_link(site, tmp_path, disk):
    def ask(*sources):
        return judged(site, tmp_path, *sources, forbidden_mounts=[f"{disk}/etc"])

    assert ask(f"{disk}/scratch", f"{disk}/etc2") == [f"{disk}/scratch", f"{disk}/etc2"]
    tail = f"{site.file} forbids {disk}/etc"
    assert ask(f"{disk}/etc/passwd") == f"--volume: {disk}/etc/passwd: {tail}"
    assert ask("/") == f"--volume: /: {tail}"
    linked = f"{disk}/scratch/link"
    assert ask(linked) == f"--volume: {linked}: leads to {disk}/etc, and {tail}"


def test_forbidden_link_means_what_it_leads_to(site, tmp_path, disk):
    found = judged(site, tmp_path, f"{disk}/scratch/a", forbidden_mounts=[f"{disk}/alias"])
    assert found == f"--volume: {disk}/scratch/a: {site.file} forbids {disk}/alias"


NAME = st.sampled_from(["a", "ab", "b", "..", "."])


@given(st.lists(NAME, max_size=5), st.lists(st.sampled_from(["a", "ab"]), min_size=1, max_size=2))
def test_allowed_is_what_lies_below_by_name(names, place):
    found = config.load({}, site_file="/nonexistent", home="/nonexistent")
    found = found._replace(allowed_mounts=("/nonexistent/" + "/".join(place),))
    source = "/nonexistent/" + "/".join(names)
    asked = Request("x", ("true",), {}, "/", volumes=(Volume(source, "/in"),))
    walked = os.path.normpath(source).split("/")
    fine = walked[2 : 2 + len(place)] == place and walked[1] == "nonexistent"
    if fine:
        rules.request(asked, found)
    else:
        with pytest.raises(errors.PolicyError):
            rules.request(asked, found)


def test_site_s_mounts_come_first_and_are_not_judged(site):
    site.write(
        site.file,
        'site_mounts = ["/opt/site:/opt/site:ro+nofail", "tmpfs:/work:size=1g"]\n'
        'forbidden_mounts = ["/opt"]\n',
    )
    asked = Request("x", ("true",), {}, "/", volumes=(Volume("/nonexistent", "/work"),))
    origin = f"{site.file}: site_mounts"
    assert rules.request(asked, site.load()).volumes == (
        Volume("/opt/site", "/opt/site", ("ro", "optional"), "bind", origin),
        Volume("tmpfs", "/work", ("size=1g",), "tmpfs", origin),
        Volume("/nonexistent", "/work"),
    )


def test_malformed_mount_of_the_site_s_is_named(site):
    site.write(site.file, 'site_mounts = ["/x:/y:rx"]')
    asked = Request("x", ("true",), {}, "/")
    found = line(lambda: rules.request(asked, site.load()))
    assert found.partition(" (")[0] == (
        f"error [config]: {site.file}: site_mounts: '/x:/y:rx' flag 'rx' is not known"
    )


# -- variables -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "after"),
    [
        ("A=1", "1"),
        ("A=", ""),
        ("A=x=y", "x=y"),
        ("-A", None),
        ("A+=x", "job:x"),
        ("A^=x", "x:job"),
        ("PATH^=/opt/bin", "/opt/bin:/image"),
        ("NEW+=x", "x"),
        ("LD_LIBRARY_PATH+=/l", "/l"),
        ("SLURM_X^=y", "y:job"),
        ("B+=x", "image:x"),
    ],
)
def test_variables_are_set_extended_and_taken_away(site, change, after):
    site.write(site.file, f'site_env = ["{change}"]')
    environ = dict.fromkeys(("A", "B", "SLURM_X", "LD_LIBRARY_PATH"), "job")
    image = (("PATH", "/image"), ("B", "image"), ("SLURM_X", "image"))
    (found,) = rules.variables(site.load(), environ, image).variables
    assert (found.value, found.reason) == (after, f"{site.file}: site_env")
    assert found.name == forms.split_change(change)[0]


def test_changes_build_on_one_another(site):
    site.write(site.file, 'site_env = ["A=1", "A+=2", "A^=0", "PATH+=/x", "-A", "A+=3"]')
    found = rules.variables(site.load(), {}, ()).variables
    assert [(v.name, v.value) for v in found] == [
        ("A", "3"),
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/x"),
    ]


@given(st.text(max_size=12))
def test_a_change_is_read_back_or_none(text):
    name, how, value = forms.split_change(text)
    if name:
        assert text == {"=": f"{name}={value}", "-": f"-{name}"}.get(how, f"{name}{how}={value}")
        assert name.isidentifier()
        assert text.isprintable()


# -- a sarus.json ----------------------------------------------------------------------------------

SARUS = """{
  "securityChecks": true,
  "siteMounts": [{"type": "bind", "source": "/scratch", "destination": "/data", "flags": {"readonly": ""}}],
  "environment": {"set": {"SITE": "x"}, "prepend": {"PATH": "/opt/site/bin"}, "unset": ["GONE"]},
  "userMounts": {"notAllowedPrefixesOfPath": ["/etc"], "notAllowedPaths": ["/opt"]},
  "hooksDir": "/opt/sarus/hooks.d", "defaultMPIType": "cray", "seccompProfile": "/x"
}
"""


@pytest.fixture
def sarus(site, tmp_path):
    file = tmp_path / "sarus.json"
    file.write_text(SARUS)
    file.chmod(0o644)
    site.write(site.file, f'sarus_json = "{file}"\n')
    return file


def test_sarus_json_counts_where_the_site_s_own_files_say_nothing(site, sarus):
    drop_in = site.folder / "own.toml"
    site.write(drop_in, 'site_env = ["SITE=own"]')
    found = site.load()
    assert found.site_mounts == ("/scratch:/data:ro",)
    assert found.hooks_dirs == ("/opt/sarus/hooks.d",)
    assert found.mpi_profile == "cray"
    assert found.forbidden_targets == ("/etc/", "/opt")
    assert found.site_env == ("SITE=own",)
    assert found.origins["site_mounts"] == found.origins["mpi_profile"] == str(sarus)
    assert found.origins["site_env"] == str(drop_in)
    site.write(site.own, 'mpi_profile = "mine"')
    assert site.load().mpi_profile == "mine"
    assert [volume.destination for volume in rules.mounts(found)] == ["/data"]


def test_kept_plans_hang_on_the_sarus_json(site, sarus):
    assert str(sarus) in config.files({}, site_file=str(site.file), home="/h")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "{}: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[]", "{}: is no JSON object"),
        ('{"siteMounts": 1}', "{}: siteMounts: is not of the form that Sarus documents"),
        ('{"environment": {"set": {"1": "x"}}}', "{}: site_env: '1=x' is not NAME=VALUE, NAME+=VALUE, NAME^=VALUE or -NAME"),
        ('{"hooksDir": "x"}', "{}: hooks_dirs: 'x' is not an absolute path"),
    ],
)  # fmt: skip
def test_malformed_sarus_json_is_an_error(site, sarus, text, why):
    sarus.write_text(text)
    assert line(site.load) == f"error [config]: {why.format(sarus)} (correct the file named)"


def test_sarus_json_that_is_not_there_or_that_others_may_change_is_an_error(site, sarus):
    sarus.chmod(0o664)
    assert line(site.load) == (
        f"error [config]: {sarus}: others than root may change it (uid {os.getuid()}, mode 0664) "
        "(chown root and chmod go-w it)"
    )
    sarus.unlink()
    assert line(site.load) == (
        f"error [config]: {sarus}: No such file or directory (correct the file named)"
    )


def test_user_cannot_name_a_sarus_json(site, sarus):
    site.write(site.own, f'sarus_json = "{sarus}"')
    assert "sarus_json is the administrator's to set" in line(site.load)


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        *(("/etc", "/etc/"), ("/etc/passwd", "/etc/"), ("//etc/./x/", "/etc/")),
        *(("/opt", "/opt"), ("/opt/", "/opt"), ("/opt/x", ""), ("/etcetera", "")),
    ],
)
@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_mount_to_a_forbidden_target_is_refused(site, sarus, place, wrong, kind):
    found = site.load()
    asked = Request("x", ("true",), {}, "", volumes=(Volume("/tmp", place, kind=kind),))
    if wrong:
        assert line(lambda: rules.request(asked, found)) == (
            f"error [policy]: --volume: {place}: {sarus} forbids mounts to {wrong} "
            "(use what the file named allows, or ask the administrator)"
        )
    else:
        assert rules.request(asked, found).volumes[-1].destination == place


def test_check_says_what_a_sarus_json_has_no_meaning_for(site, sarus, capsys):
    from fairlead.cli import config as verb

    site.write(site.file, f'sarus_json = "{sarus}"\nsite_env = ["A=b"]\n')
    assert list(verb._remarks(site.load())) == [
        f"{sarus}: environment: {site.file} sets site_env",
        f"{sarus}: seccompProfile: no privilege can be gained inside; no filter is loaded",
    ]
