"""Facts of a node, read from files that are made here."""

import os

from fairlead.host import probe


def conf(tmp_path, text, plugstack):
    (tmp_path / "slurm.conf").write_text(text)
    (tmp_path / "plugstack.conf").write_text(plugstack)
    return str(tmp_path / "slurm.conf")


def test_line_is_found_in_included_files(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "spank_fairlead.so").touch()
    (tmp_path / "d/a.conf").write_text("# required spank_fairlead.so\noptional other.so x=y\n")
    (tmp_path / "d/b.conf").write_text(
        f"required {tmp_path}/spank_fairlead.so site=/s grace=5 # why\n"
    )
    found = probe.plugin_line(conf(tmp_path, "", "include d/*.conf\n"))
    assert found == probe.Line(
        f"{tmp_path}/d/b.conf", f"{tmp_path}/spank_fairlead.so", ("site=/s", "grace=5"), there=True
    )
    assert (found.argument("site"), found.argument("prefix")) == ("/s", "")


def test_plugstack_is_where_slurm_conf_says(tmp_path):
    (tmp_path / "p.conf").write_text("required /nowhere/spank_fairlead.so\n")
    found = probe.plugin_line(conf(tmp_path, f"PlugStackConfig={tmp_path}/p.conf\n", ""))
    assert (found.file, found.there) == (f"{tmp_path}/p.conf", False)


def test_no_line_is_none_and_a_file_that_includes_itself_ends(tmp_path):
    assert probe.plugin_line(str(tmp_path / "slurm.conf")) is None
    assert probe.plugin_line(conf(tmp_path, "", "include plugstack.conf\n")) is None


def test_place_that_does_not_exist_has_the_room_of_its_parent(tmp_path):
    found = probe.place(str(tmp_path / "a/b"))
    assert (found.exists, found.problem) == (False, "")
    assert found.free > 0
    assert found.filesystem


def test_place_that_is_a_file_or_behind_one_is_a_problem(tmp_path):
    (tmp_path / "f").touch()
    assert probe.place(str(tmp_path / "f")).problem == "is not a real directory"
    assert probe.place(str(tmp_path / "f/x")).problem == "Not a directory"


def test_file_system_of_a_path():
    assert probe.filesystem_of("/proc/self") == "proc"
    assert probe.filesystem_of("/dev/shm/x") in {"tmpfs", "ext4", "overlay", "devtmpfs"}


def test_file_systems_of_the_kernel():
    release = os.uname().release
    assert probe.has_filesystem("proc", release)
    assert not probe.has_filesystem("nosuchfs", release)
