"""What only root could change is used; everything else is refused by name, whoever made it look good."""

import os

import pytest

from fairlead import errors
from fairlead.host import owned


@pytest.fixture
def root(tmp_path):
    """A forged root whose owner, this user, stands for the administrator."""
    tree = tmp_path / "root"
    (tree / "etc/cdi").mkdir(parents=True, mode=0o755)
    for path in (tree, tree / "etc", tree / "etc/cdi"):
        path.chmod(0o755)
    (tree / "etc/cdi/a.json").write_text("{}")
    (tree / "etc/cdi/a.json").chmod(0o644)
    return owned.Root(str(tree), os.getuid())


def line(call):
    with pytest.raises(errors.DeviceError) as caught:
        call()
    return caught.value.line()


def test_file_of_root_is_read_and_listed(root):
    assert owned.names("/etc/cdi", (".json",), errors.DeviceError, root) == ("/etc/cdi/a.json",)
    assert owned.read("/etc/cdi/a.json", errors.DeviceError, root) == b"{}"


def test_missing_directory_has_no_files(root):
    assert owned.names("/etc/none", (".json",), errors.DeviceError, root) == ()


@pytest.mark.parametrize("at", ["etc", "etc/cdi", "etc/cdi/a.json"])
@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_what_others_may_write_to_is_refused_at_every_step(root, at, mode):
    os.chmod(f"{root.path}/{at}", mode)
    assert line(lambda: owned.read("/etc/cdi/a.json", errors.DeviceError, root)) == (
        f"error [device]: /{at}: others than root may write to it (mode {mode:04o}) "
        "(only what root alone can change is used; ask the administrator)"
    )


def test_what_another_owns_is_refused(root):
    other = root._replace(owner=root.owner + 1)
    assert line(lambda: owned.read("/etc/cdi/a.json", errors.DeviceError, other)) == (
        f"error [device]: /etc: belongs to uid {root.owner}, not to root "
        "(only what root alone can change is used; ask the administrator)"
    )


def test_link_is_followed_and_its_target_looked_at_as_well(root):
    os.mkdir(f"{root.path}/var", 0o755)
    os.mkdir(f"{root.path}/run", 0o755)
    os.symlink("/etc/cdi", f"{root.path}/run/cdi")
    os.symlink("../run", f"{root.path}/var/run")
    assert owned.read("/var/run/cdi/a.json", errors.DeviceError, root) == b"{}"
    os.chmod(f"{root.path}/etc/cdi", 0o777)
    assert "/etc/cdi: others than root" in line(
        lambda: owned.read("/var/run/cdi/a.json", errors.DeviceError, root)
    )


def test_link_cannot_lead_out_of_the_root(root):
    os.symlink("../../../../../../etc/cdi", f"{root.path}/link")
    assert owned.real("/link/a.json", errors.DeviceError, root) == "/etc/cdi/a.json"


def test_loop_of_links_ends(root):
    os.symlink("b", f"{root.path}/a")
    os.symlink("a", f"{root.path}/b")
    assert "too many levels" in line(lambda: owned.real("/a", errors.DeviceError, root))


def test_what_is_no_regular_file_is_refused_without_waiting(root):
    os.mkfifo(f"{root.path}/etc/cdi/b.json", 0o644)
    assert line(lambda: owned.read("/etc/cdi/b.json", errors.DeviceError, root)).startswith(
        "error [device]: /etc/cdi/b.json: is no regular file of at most 8 MiB ("
    )


def test_program_must_be_one_that_the_user_can_start(root):
    path = f"{root.path}/etc/run"
    with open(path, "w") as file:
        file.write("#!/bin/sh\n")
    os.chmod(path, 0o644)
    assert line(lambda: owned.program("/etc/run", errors.DeviceError, root)).startswith(
        "error [device]: /etc/run: is no program that you may execute ("
    )
    os.chmod(path, 0o755)
    assert owned.program("/etc/run", errors.DeviceError, root) == "/etc/run"
    assert "No such file" in line(lambda: owned.program("/etc/no", errors.DeviceError, root))
