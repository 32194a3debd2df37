"""A kept plan is used while everything that it was made from is still so: one change at a time, and it is not."""

import fcntl
import hashlib
import json
import os
import stat
import sys
import time

import pytest

from fairlead import config as settings
from fairlead import errors, kernel, log
from fairlead.host import facts, hooks, slurm, witness
from fairlead.image import reference
from fairlead.plan import request as launch_request
from fairlead.run import basis, block, keep, launch, proof
from fairlead.store import blobs, layers, layout, records, trust
from fairlead.store.layout import Stage

KEY = b"ref=x\0boot=1\0"
MANIFEST = "sha256:" + "e" * 64


class Node:
    """A small node: a store with one image, settings, Slurm's files, a home, an environment."""

    def __init__(self, tmp, monkeypatch):
        self.tmp = tmp
        for name in ("home", "work", "cfg/fairlead", "tmp", "spool/pmix.7.0", "spool/pmix.8.3"):
            (tmp / name).mkdir(parents=True)
        self.site = tmp / "site.toml"
        self.site.write_text("")
        self.own = {
            "HOME": str(tmp / "home"),
            "XDG_CONFIG_HOME": str(tmp / "cfg"),
            "FAIRLEAD_STORE": str(tmp / "store"),
            "FAIRLEAD_SITE_CONFIG": str(self.site),
        }
        for name in ("HOME", "XDG_CONFIG_HOME"):
            monkeypatch.setenv(name, self.own[name])
        (tmp / "slurm.conf").write_text(f"TmpFS={tmp}/tmp\n")
        self.job = {
            "PATH": "/nowhere",
            "HOME": str(tmp / "home"),
            "SLURM_CONF": str(tmp / "slurm.conf"),
            "UNRELATED": "1",
        }
        self.cwd = str(tmp / "work")
        self.directory = str(tmp / "plans")
        names = {}
        for name in basis.NAME_SERVICE:
            path = tmp / os.path.basename(name)
            path.write_text("")
            names[name] = str(path)
        monkeypatch.setattr(basis, "NAME_SERVICE", tuple(names.values()))
        self.places = tuple(str(tmp / f"place{number}") for number in range(3))
        monkeypatch.setattr(facts, "PLACES", (*facts.PLACES, *self.places))
        monkeypatch.setattr(kernel, "plan_directory", lambda: self.directory)
        monkeypatch.setattr(launch, "refuse_root", lambda: None)
        monkeypatch.setattr(log, "_said", 0)
        self.held = []
        hold = layers.hold
        monkeypatch.setattr(layers, "hold", lambda *given: self.held.append(hold(*given)))
        self.image = self._image()

    def _image(self):
        store = layout.open_store(settings.load(self.own))
        diff_id = "sha256:" + "d" * 64
        table = {
            "os": "linux",
            "architecture": "amd64",
            "config": {"Env": ["PATH=/bin", "DOLLAR=${PMIX_SERVER_TMPDIR}"]},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        }
        document = json.dumps(table).encode()
        digest = "sha256:" + hashlib.sha256(document).hexdigest()
        chain = layers.chain_id((diff_id,))
        self.rootfs = layers.rootfs(store, chain)
        os.makedirs(f"{self.rootfs}/etc")
        for name in ("passwd", "group"):
            with open(f"{self.rootfs}/etc/{name}", "w", encoding="utf-8") as file:
                file.write("root:x:0:0::/root:/bin/sh\n")
        self.record = records.Record(
            f"q.io/x@{MANIFEST}", MANIFEST, MANIFEST, digest, chain, 0, "2026-01-01T00:00:00Z"
        )
        with Stage(store) as stage:
            blobs.put(store, stage, digest, document)
            records.write(store, stage, self.record)
            records.write(store, stage, self.record._replace(reference="q.io/x:1"))
        self.store = store
        return f"q.io/x@{MANIFEST}"

    def let_go(self):
        """End the holds that a launch keeps until its process ends."""
        for fd in self.held:
            os.close(fd)
        self.held.clear()

    def decide(self, **changes):
        """Decide a launch; returns start, launch, request and settings as ``keep.begin`` wants them."""
        job = witness.Environment(self.job)
        start = basis.begin(job, self.own)
        config = settings.load(self.own)
        request = launch_request.Request(self.image, ("true",), job, self.cwd, mpi=config.mpi)
        request = request._replace(**changes)
        return start, launch.prepare(request, config), request, config

    def keep(self, **changes):
        return kept(self.decide(**changes))

    def find(self, key=KEY):
        return kernel.plan_find(self.directory, key, self.job)

    def entries(self):
        return os.listdir(self.directory) if os.path.isdir(self.directory) else []


def kept(made):
    """Keep a decided launch that needs no proof; tells whether it was kept."""
    pending = keep.begin(KEY, *made)
    return pending is not None and keep.publish(pending, proof.Proven())


@pytest.fixture
def node(tmp_path, monkeypatch):
    made = Node(tmp_path, monkeypatch)
    yield made
    made.let_go()


def with_pmix(node, job="7", step="0"):
    server = f"{node.tmp}/spool/pmix.{job}.{step}"
    (node.tmp / f"tmp/spmix_appdir_{os.getuid()}_{job}.{step}").mkdir(exist_ok=True)
    node.job |= {
        "PMIX_SERVER_TMPDIR": f"{server}/",  # as Slurm's plugin sets it
        "PMIX_DSTORE_21_BASE_PATH": server,
        "PMIX_SECURITY_MODE": "munge,native",
        "SLURM_JOB_ID": job,
        "SLURM_STEP_ID": step,
    }


def test_what_is_found_is_the_block_that_the_engine_made(node):
    _, ready, *_ = made = node.decide()
    assert kept(made)
    assert node.find() == block.compile_plan(ready.plan)


def test_another_key_of_the_same_hash_is_not_taken(node):
    node.keep()
    name = node.entries()[0]
    other = KEY.replace(b"x", b"y")
    os.rename(f"{node.directory}/{name}", f"{node.directory}/{kernel.plan_hash(other):016x}")
    assert node.find(other) is None


def test_variable_that_nothing_asked_for_does_not_matter(node):
    node.keep()
    node.job["UNRELATED"] = "2"
    node.job["NEW"] = "x"
    assert node.find() is not None


def touch(path):
    with open(path, "a", encoding="utf-8") as file:
        file.write("# a line\n")


def make(path):
    path.parent.mkdir(parents=True)
    path.touch()


CHANGES = {
    "site settings": lambda node: touch(node.site),
    "site settings removed": lambda node: os.unlink(node.site),
    "drop-in of the site's appears": lambda node: make(node.tmp / "fairlead.d/a.toml"),
    "policy of the user's appears": lambda node: make(node.tmp / "cfg/containers/policy.json"),
    "registries.conf of the user's appears": lambda node: make(
        node.tmp / "cfg/containers/registries.conf"
    ),
    "drop-in of registries.conf appears": lambda node: make(
        node.tmp / "cfg/containers/registries.conf.d/a.conf"
    ),
    "user settings appear": lambda node: touch(node.tmp / "cfg/fairlead/fairlead.toml"),
    "passwd": lambda node: touch(node.tmp / "passwd"),
    "group": lambda node: touch(node.tmp / "group"),
    "nsswitch.conf": lambda node: os.unlink(node.tmp / "nsswitch.conf"),
    "slurm.conf": lambda node: touch(node.tmp / "slurm.conf"),
    "mpi.conf appears": lambda node: touch(node.tmp / "mpi.conf"),
    "a place appears": lambda node: os.mkdir(node.places[0]),
    "home vanishes": lambda node: os.rename(node.tmp / "work", node.tmp / "away"),
    "working directory becomes a file": lambda node: (os.rmdir(node.cwd), touch(node.cwd)),
    "image removed": lambda node: records.remove(node.store, node.record),
    "configuration damaged": lambda node: touch(blobs.path(node.store, node.record.config)),
    "tree removed": lambda node: os.rename(node.rootfs, f"{node.rootfs}.gone"),
    "tree's etc": lambda node: os.rename(f"{node.rootfs}/etc", f"{node.rootfs}/gone"),
    "tree's passwd": lambda node: touch(f"{node.rootfs}/etc/passwd"),
    "tree's group": lambda node: os.unlink(f"{node.rootfs}/etc/group"),
    "tree of another group": lambda node: os.chmod(node.rootfs, 0o700),
    "store of another version": lambda node: touch(f"{node.store.root}/version"),
    "store open to others": lambda node: os.chmod(node.store.root, 0o777),
    "variable that is dropped": lambda node: node.job.update(LD_PRELOAD="/x"),
    "rank of an MPI job": lambda node: node.job.update(PMIX_RANK="0"),
    "PMIx server": with_pmix,
    "PMIx security": lambda node: node.job.update(PMIX_SECURITY_MODE="native"),
    "PMIx plugin": lambda node: node.job.update(PMIX_MCA_psec="munge"),
    "Slurm's configuration elsewhere": lambda node: node.job.update(SLURM_CONF="/x/slurm.conf"),
}  # fmt: skip
NEEDS_PMIX = {"PMIx plugin", "slurm.conf", "mpi.conf appears", "Slurm's configuration elsewhere"}


@pytest.mark.parametrize("change", CHANGES)
def test_one_change_and_the_plan_is_made_anew(node, change):
    if change in NEEDS_PMIX:
        with_pmix(node)
    assert node.keep()
    assert node.find() is not None
    CHANGES[change](node)
    assert node.find() is None
    assert node.entries() == [], "a stale entry stays"


@pytest.fixture
def signed(node):
    """The site demands a signature by a key; the image's record says that it had one."""
    place = node.tmp / "containers"
    place.mkdir()
    (place / "key.gpg").write_bytes(b"a key")
    demand = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": f"{place}/key.gpg"}
    (place / "policy.json").write_text(json.dumps({"default": [demand]}))
    node.site.write_text(f'containers_config = "{place}"\n')
    wanted = trust.demands(reference.parse(node.image), settings.load(node.own), node.own)
    with Stage(node.store) as stage:
        records.write(node.store, stage, node.record._replace(policy=wanted.name))
    return place


@pytest.mark.parametrize("name", ["policy.json", "key.gpg"])
def test_plan_of_a_signed_image_is_made_anew_when_policy_or_key_change(node, signed, name):
    assert node.keep()
    assert node.find() is not None
    touch(signed / name)
    assert node.find() is None


def test_image_of_the_store_that_satisfied_other_demands_is_not_launched(node, signed):
    touch(signed / "key.gpg")
    with open(node.site, "a", encoding="utf-8") as file:
        file.write('pull = "never"\n')
    with pytest.raises(errors.SignatureError, match="was not verified by"):
        node.decide()


def test_launch_with_a_mount_that_is_judged_is_not_kept(node):
    node.site.write_text('forbidden_mounts = ["/etc"]\n')
    volume = launch_request.Volume("/tmp", "/mnt")
    assert not node.keep(volumes=(volume,))
    assert node.keep()


def test_engine_that_was_replaced_makes_its_own_plans(node, tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    touch(package / "__init__.py")
    monkeypatch.setattr(basis.fairlead, "__file__", str(package / "__init__.py"))
    assert node.keep()
    assert node.find() is not None
    touch(package / "__init__.py")
    assert node.find() is None


@pytest.fixture
def hooked(node, monkeypatch):
    """A site with a directory of hooks, of which a test says what they are: it is not root's here."""
    made = []
    monkeypatch.setattr(hooks, "read", lambda directories: tuple(made))
    (node.tmp / "hooks.d").mkdir()
    touch(node.tmp / "hooks.d/a.json")
    node.site.write_text(f'hooks_dirs = ["{node.tmp}/hooks.d"]\n')
    return made


HOOK = hooks.Hook("createContainer", "/bin/true", ("true",), (), 30, "a.json")


def test_launch_with_a_hook_or_a_device_is_not_kept(node, hooked):
    hooked.append(hooks.Rule((HOOK,), hooks.When(always=True)))
    assert not node.keep()
    hooked.clear()
    assert not node.keep(devices=("/dev/null:/dev/x",))
    assert node.keep()


@pytest.mark.parametrize("change", ["file appears", "file changes", "directory goes"])
def test_plan_without_a_hook_is_made_anew_when_the_hooks_change(node, hooked, change):
    hooked.append(hooks.Rule((HOOK,), hooks.When(annotations=(("a", "b"),))))
    assert node.keep()
    assert node.find() is not None
    if change == "directory goes":
        os.rename(node.tmp / "hooks.d", node.tmp / "gone")
    else:
        touch(node.tmp / ("hooks.d/b.json" if change == "file appears" else "hooks.d/a.json"))
    assert node.find() is None


@pytest.mark.parametrize("change", ["driver appears", "specifications appear", "other job"])
def test_plan_without_a_gpu_is_made_anew_when_there_is_one(node, monkeypatch, change):
    """A job that has GPUs by Slurm's word, on a node without a driver: kept, with its note."""
    places = tuple(str(node.tmp / f"gpu{number}") for number in range(2))
    monkeypatch.setattr(facts, "GPU_PLACES", places)
    node.site.write_text(f'cdi_dirs = ["{node.tmp}/cdi"]\n')
    node.job["SLURM_JOB_GPUS"] = "0"
    start, ready, request, config = node.decide()
    assert ready.plan.notes
    assert kept((start, ready, request, config))
    assert node.find() is not None
    if change == "driver appears":
        touch(places[1])
    elif change == "specifications appear":
        os.mkdir(node.tmp / "cdi")
    else:
        del node.job["SLURM_JOB_GPUS"]
    assert node.find() is None


def test_launch_that_looked_for_gpus_is_not_kept(node, monkeypatch):
    import fairlead.host.gpu  # noqa: F401 - it takes its places from the tuple that is changed next

    place = str(node.tmp / "gpu")
    monkeypatch.setattr(facts, "GPU_PLACES", (place,))
    touch(place)
    assert node.keep()
    node.job["SLURM_JOB_GPUS"] = "0"
    assert not node.keep()


def test_device_of_a_fast_network_that_appears(node, monkeypatch):
    folder = node.tmp / "infiniband"
    monkeypatch.setattr(facts, "FABRIC_DIRECTORY", str(folder))
    assert node.keep()
    assert node.find() is not None
    folder.mkdir()
    assert node.find() is None


def test_home_that_vanishes(node, monkeypatch):
    user = facts.user()._replace(home=str(node.tmp / "home"))
    monkeypatch.setattr(facts, "user", lambda: user)
    assert node.keep()
    assert node.find() is not None
    os.rmdir(node.tmp / "home")
    assert node.find() is None


# -- the host's MPI --------------------------------------------------------------------------------


@pytest.fixture
def ranks(node):
    """A node where the launch is a rank and the host has nothing that looks like an MPI but a directory."""
    prefix = node.tmp / "mpi"
    (prefix / "lib").mkdir(parents=True)
    (prefix / "bin").mkdir()
    node.job |= {"PMIX_RANK": "0", "MPI_HOME": str(prefix), "PATH": f"{prefix}/bin"}
    node.site.write_text(f'mpi_prefixes = ["{node.tmp}/site-mpi"]\n')
    from fairlead.host import index, ldso

    index.load(node.rootfs, f"{os.path.dirname(node.rootfs)}/mpi.json")
    patch = pytest.MonkeyPatch()
    patch.setattr(ldso, "CACHE", str(node.tmp / "ld.so.cache"))
    yield node
    patch.undo()


MPI_CHANGES = {
    "prefix elsewhere": lambda node: node.job.update(MPI_HOME="/other"),
    "another prefix": lambda node: node.job.update(OPAL_PREFIX="/other"),
    "another path": lambda node: node.job.update(PATH="/other"),
    "another library path": lambda node: node.job.update(LD_LIBRARY_PATH="/other"),
    "library installed": lambda node: touch(node.tmp / "mpi/lib/libmpi.so.40"),
    "library directory appears": lambda node: os.mkdir(node.tmp / "mpi/lib64"),
    "compiler appears": lambda node: touch(node.tmp / "mpi/bin/mpicc"),
    "loader's cache": lambda node: touch(node.tmp / "ld.so.cache"),
    "site's MPI appears": lambda node: os.makedirs(node.tmp / "site-mpi/lib64"),
    "site's MPI prefixes": lambda node: node.site.write_text("mpi_prefixes = []\n"),
    "index of the image": lambda node: touch(f"{os.path.dirname(node.rootfs)}/mpi.json"),
    "no rank": lambda node: node.job.pop("PMIX_RANK"),
}


@pytest.mark.parametrize("change", MPI_CHANGES)
def test_one_change_of_the_hosts_mpi_and_the_plan_is_made_anew(ranks, change):
    assert ranks.keep()
    assert ranks.find() is not None
    MPI_CHANGES[change](ranks)
    assert ranks.find() is None


def test_rank_that_launches_may_be_another_one(ranks):
    ranks.keep()
    ranks.job["PMIX_RANK"] = "5"
    assert ranks.find() is not None


# -- nothing forgotten -----------------------------------------------------------------------------


@pytest.fixture
def watched(monkeypatch):
    """Every path that is opened or looked at, while the fixture's switch is on."""
    touched, switch = set(), [False]

    def note(path):
        if switch[0] and isinstance(path, str | bytes):
            touched.add(os.fsdecode(path))

    def noting(call):
        def noted(path, *words, **options):
            note(path)
            return call(path, *words, **options)

        return noted

    for name in ("stat", "lstat", "listdir", "scandir", "readlink", "access", "open"):
        monkeypatch.setattr(os, name, noting(getattr(os, name)))
    sys.addaudithook(lambda event, words: note(words[0]) if event == "open" else None)
    yield touched, switch
    switch[0] = False


def test_every_path_that_a_launch_looks_at_is_in_its_basis(ranks, watched):
    with_pmix(ranks)
    assert ranks.keep(), "warm: the host's MPI is known, the image's index made"
    touched, switch = watched
    switch[0] = True
    made = ranks.decide()
    switch[0] = False
    grounds = basis.collect(*made)
    known = {
        facts.from_template(seen.path, ranks.job) if seen.template else seen.path
        for seen in grounds.files
    }
    derived = {  # from what is in the basis
        *(f"{ranks.store.root}/host/{name}" for name in os.listdir(f"{ranks.store.root}/host")),
        *grounds.holds,
    }
    assert str(ranks.site) in touched, "the watch does not work"
    assert touched - known - derived == set()


# -- what differs in every step --------------------------------------------------------------------


def test_next_step_gets_its_own_pmix_directories(node):
    with_pmix(node)
    assert node.keep()
    with_pmix(node, "8", "3")
    found = node.find()
    assert found == block.compile_plan(node.decide()[1].plan)
    assert b"pmix.8.3" in found
    assert f"spmix_appdir_{os.getuid()}_8.3".encode() in found
    assert b"_7.0" not in found


def test_text_of_the_image_that_looks_like_a_template_stays_what_it_is(node):
    with_pmix(node)
    node.keep()
    assert b"${PMIX_SERVER_TMPDIR}" in node.find()


BROKEN_STEPS = {
    "no server variable": lambda node: node.job.pop("PMIX_SERVER_TMPDIR"),
    "server's directory is gone": lambda node: os.rmdir(node.tmp / "spool/pmix.8.3"),
    "server's directory is a file": lambda node: (
        os.rmdir(node.tmp / "spool/pmix.8.3"),
        touch(node.tmp / "spool/pmix.8.3"),
    ),
    "client's directory is gone": lambda node: os.rmdir(
        node.tmp / f"tmp/spmix_appdir_{os.getuid()}_8.3"
    ),
    "names that mean the same no longer do": lambda node: node.job.update(
        PMIX_DSTORE_21_BASE_PATH=str(node.tmp)
    ),
    "one more store": lambda node: node.job.update(PMIX_DSTORE_X_BASE_PATH="/tmp"),
    "one store less": lambda node: node.job.pop("PMIX_DSTORE_21_BASE_PATH"),
    "client's directory elsewhere": lambda node: node.job.update(SLURM_PMIX_TMPDIR="/dev/shm"),
}


@pytest.mark.parametrize("change", BROKEN_STEPS)
def test_step_that_is_built_otherwise_is_planned_anew(node, change):
    with_pmix(node)
    assert node.keep()
    with_pmix(node, "8", "3")
    BROKEN_STEPS[change](node)
    assert node.find() is None


def test_pmix_directory_of_another_user_is_not_taken(node):
    if os.geteuid() != 0:
        pytest.skip("gives a directory away, so it runs as root")
    with_pmix(node)
    node.keep()
    with_pmix(node, "8", "3")
    os.chown(node.tmp / "spool/pmix.8.3", 12345, 12345)
    assert node.find() is None


# -- what is never kept ----------------------------------------------------------------------------


def test_tag_is_not_kept(node):
    node.image = "q.io/x:1"
    node.own["FAIRLEAD_PULL"] = "missing"
    assert not node.keep()
    assert node.entries() == []


@pytest.mark.parametrize("changes", [{"script": "/tmp/job.sh"}, {"multi_prog": True}])
def test_batch_script_and_multi_prog_are_not_kept(node, changes):
    step = launch_request.Step("1", "0", 0, 1, 1, 1, **changes)
    assert not node.keep(step=step)


def test_setting_turns_it_off(node):
    node.site.write_text("plan_cache = false\n")
    assert not node.keep()


def test_launch_that_said_something_is_not_kept(node):
    made = node.decide()
    log.warning("the image is odd")
    assert not kept(made)


def test_node_that_changed_while_the_plan_was_made_keeps_nothing(node):
    made = node.decide()
    os.mkdir(node.places[1])
    assert not kept(made)


def test_settings_that_changed_while_the_plan_was_made_keep_nothing(node):
    made = node.decide()
    touch(node.site)
    assert not kept(made)


# -- the directory ---------------------------------------------------------------------------------


def test_entry_and_directory_are_the_users_alone(node):
    node.keep()
    assert stat.S_IMODE(os.stat(node.directory).st_mode) == 0o700
    (name,) = node.entries()
    assert stat.S_IMODE(os.stat(f"{node.directory}/{name}").st_mode) == 0o600
    assert name == f"{kernel.plan_hash(KEY):016x}"


@pytest.mark.parametrize("mode", [0o770, 0o701, 0o755, 0o777])
def test_directory_that_others_may_enter_is_no_cache(node, mode):
    node.keep()
    os.chmod(node.directory, mode)
    assert node.find() is None
    assert not node.keep()


def test_directory_of_another_is_no_cache(node):
    if os.geteuid() != 0:
        pytest.skip("gives a directory away, so it runs as root")
    node.keep()
    os.chown(node.directory, 12345, 12345)
    assert node.find() is None
    assert not node.keep()


def test_symlink_in_place_of_the_directory_is_no_cache(node):
    node.keep()
    os.rename(node.directory, f"{node.directory}.real")
    os.symlink(f"{node.directory}.real", node.directory)
    assert node.find() is None
    assert not node.keep()


def entry_path(node):
    return f"{node.directory}/{kernel.plan_hash(KEY):016x}"


def replaced(kind):
    def replace(node):
        path = entry_path(node)
        os.rename(path, f"{node.tmp}/entry")
        if kind == "symlink":
            os.symlink(f"{node.tmp}/entry", path)
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            os.mkdir(path)

    return replace


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_entry_that_is_no_file_is_not_read(node, kind):
    node.keep()
    replaced(kind)(node)
    assert node.find() is None


def test_entry_that_is_too_old_is_not_used(node, monkeypatch):
    monkeypatch.setattr(keep, "MAX_AGE_S", -1)
    assert node.keep()
    assert node.find() is None


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_damaged_entry_is_not_used_and_removed(node, cut):
    node.keep()
    with open(entry_path(node), "rb") as file:
        data = file.read()
    with open(entry_path(node), "wb") as file:
        file.write(data[:cut])
    assert node.find() is None
    assert node.entries() == []


def test_tree_that_is_being_removed_is_not_used(node):
    node.keep()
    node.let_go()
    fd = os.open(layers.path(node.store, node.record.chain), os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert node.find() is None
    finally:
        os.close(fd)


def test_old_entries_go(node, monkeypatch):
    monkeypatch.setattr(keep, "MAX_KEPT", 3)
    os.mkdir(node.directory, 0o700)
    for number in range(5):
        path = f"{node.directory}/{number}"
        touch(path)
        os.utime(path, (time.time() - number - 10,) * 2)
    touch(f"{node.directory}/old")
    os.utime(f"{node.directory}/old", (1, 1))
    node.keep()
    assert set(node.entries()) == {os.path.basename(entry_path(node)), "0", "1"}


def test_directory_that_cannot_be_written_fails_no_launch(node):
    touch(node.directory)
    assert not node.keep()


def test_notes_travel_with_the_entry(node, monkeypatch):
    start, ready, *rest = node.decide()
    notes = ("the host is newer", "two\nlines and \x1b[2J")
    ready = ready._replace(plan=ready.plan._replace(notes=notes))
    assert kept((start, ready, *rest))
    with open(entry_path(node), "rb") as file:
        data = file.read()
    assert b"the host is newer" in data
    assert b"\x1b[" not in data[32:]  # behind the sum and the times, which may hold any byte
    assert b"two\n" not in data


def test_slurm_configuration_is_where_the_variable_says():
    assert slurm.configuration({"SLURM_CONF": "/a/s.conf"}) == ("/a/s.conf", "/a/mpi.conf")
