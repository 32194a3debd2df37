"""``sinks.remove_tree``: everything goes that is ours, and nothing else."""

import layer_box
import pytest

# ``attempt`` says what came of it, and looks at everything beside the root.
SETUP = """
import os, resource
import layer_worker
from fairlead import sinks

def attempt(path="root"):
    before = layer_worker.canary()
    try:
        sinks.remove_tree(path)
    except (OSError, ValueError) as error:
        return type(error).__name__
    assert layer_worker.canary() == before, "something else was touched"
    return "there" if os.path.lexists(path) else "gone"

def touch(path, dir_fd=None):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, dir_fd=dir_fd))

layer_worker.plant_canary()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
os.mkdir("root")
"""


def run(script, **options):
    return layer_box.run_script(SETUP + script, **options).split()


def test_modes_in_the_way_are_no_obstacle():
    script = """
os.makedirs("root/a/b/c")
for name in ("root/a/f", "root/a/b/f", "root/a/b/c/f"):
    touch(name)
for name, mode in (("root/a/b/c", 0), ("root/a/b", 0o555), ("root/a", 0o100), ("root", 0o400)):
    os.chmod(name, mode)
print(attempt())
"""
    assert run(script) == ["gone"]


def test_a_tree_of_any_depth_goes_with_few_descriptors():
    script = """
fd = os.open("root", os.O_RDONLY)
for _ in range(5000):
    os.mkdir("d" * 100, dir_fd=fd)
    touch("f", dir_fd=fd)
    inner = os.open("d" * 100, os.O_RDONLY, dir_fd=fd)
    os.chmod(fd, 0o500)
    os.close(fd)
    fd = inner
os.close(fd)
print(attempt())
"""
    assert run(script) == ["gone"]


def test_names_that_the_removal_would_use_itself_are_no_obstacle():
    script = """
os.mkdir("root/.fairlead-removed-0")
os.makedirs("root/" + "d/" * 40)
touch("root/.fairlead-removed-1")
print(attempt())
"""
    assert run(script) == ["gone"]


def test_links_below_are_removed_and_not_followed():
    script = """
os.symlink("../canary", "root/to-directory")
os.symlink("../canary/file", "root/to-file")
print(attempt())
"""
    assert run(script) == ["gone"]


def test_a_link_as_the_path_is_removed_and_not_followed():
    script = """
os.symlink("canary", "root/link")
os.rename("root/link", "link")
print(attempt("root"))
os.rename("link", "root")
print(attempt("root"), os.path.exists("canary/file"))
"""
    assert run(script) == ["gone", "gone", "True"]


def test_a_wide_directory_goes():
    script = """
for number in range(3000):
    os.mkdir(f"root/{number}")
    touch(f"root/{number}/f")
print(attempt())
"""
    assert run(script) == ["gone"]


def test_a_file_goes_and_absence_is_no_error():
    script = """
touch("root/file")
print(attempt("root/file"), attempt("root/none"), attempt("none/such"), attempt("root/"))
"""
    assert run(script) == ["gone", "gone", "gone", "gone"]


@pytest.mark.parametrize("path", ["/", "", ".", "..", "root/..", "root/."])
def test_what_is_not_a_name_is_not_removed(path):
    assert run(f"print(attempt({path!r}), os.path.isdir('root'))") == ["ValueError", "True"]


def test_a_mount_is_not_entered():
    mount = 'mkdir -p root/d/m && mount -t tmpfs none root/d/m && echo precious >root/d/m/f && exec "$@"'
    script = SETUP.replace('os.mkdir("root")', 'print(attempt(), open("root/d/m/f").read())')
    prefix = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh")
    assert layer_box.run_script(script, prefix=prefix).split() == ["OSError", "precious"]


def test_a_parent_that_cannot_be_written_is_an_error():
    script = """
os.makedirs("root/top/d")
os.chmod("root/top", 0o500)
print(attempt("root/top/d"), os.path.isdir("root/top"))
"""
    assert run(script) == ["PermissionError", "True"]
