"""Where it is shown: known attacks (security.md, section 2) and what users of other engines type (peers.md), by test.

An entry is a file of tests and a name in it: of a test, a case or a row. An entry whose name is gone is an error here.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
CONTAINER, RULES, RUN = (
    "kernel/test_container.py",
    "slurm/test_fails_closed.py",
    "unit/test_plan.py",
)
IMAGES, DOORS, REAL = (
    "slurm/test_compat_images.py",
    "slurm/test_compat_doors.py",
    "slurm/test_compat_attacks.py",
)
PYXIS, EDF, LINES = "slurm/test_pyxis.py", "slurm/test_edf.py", "slurm/test_compat_lines.py"

Entries = tuple[tuple[str, str], ...]

ATTACKS: dict[int, Entries] = {
    1: ((CONTAINER, "test_entrypoint_that_is_proc_self_exe_cannot_reach_the_engine"), (IMAGES, "script that is its own interpreter")),
    2: ((CONTAINER, "test_volume_whose_target_is_swapped_meanwhile_leaves_the_host_as_it_was"),),
    3: ((CONTAINER, "test_workdir_of_the_image_cannot_lead_outside"), (RUN, "/proc/self/fd/7"), (IMAGES, "working directory by descriptor")),
    4: ((CONTAINER, "test_mount_point_through_a_link_makes_nothing_on_the_host"), (REAL, "test_step_leaves_mounts_and_directories_of_the_host_as_they_were")),
    5: ((CONTAINER, "test_images_own_device_files_are_not_used"), (IMAGES, "/dev of the image is not used")),
    6: ((CONTAINER, "test_image_with_a_link_for_a_kernel_tree_is_refused"), (CONTAINER, "test_image_with_a_file_for_proc_is_refused"), (IMAGES, "/proc is full")),
    10: ((REAL, "test_container_reaches_none_of_those_who_join_it"),),
    11: ((IMAGES, 'USERS |= {'), ("slurm/compat_images.py", '"big": "4294967296"')),
    14: ((IMAGES, "a volume whose path is a link copies nothing"), (IMAGES, "volumes reach no file of the host")),
    18: (("unit/test_hooks.py", "test_labels_of_an_image_select_nothing"), (IMAGES, "labels have no effect")),
    25: ((IMAGES, "passwd is a pipe"), (IMAGES, "passwd is huge"), (IMAGES, "passwd and group link to each other")),
    26: ((CONTAINER, "test_engine_imports_nothing_from_the_image"), (REAL, "test_no_program_of_the_host_takes_the_images_libraries")),
    27: (("e2e/test_commit.py", "test_swapped_parents_lead_nowhere"),),
    28: ((PYXIS, "test_mount_is_checked_as_the_user"), (DOORS, "source that one may not read")),
    29: (("unit/test_env.py", "test_jobs_variables_that_the_image_does_not_name_are_untouched"), (RULES, "test_batch_scripts_words_cannot_switch_the_entering_off"), ("e2e/test_shared_access.py", "test_login_reaches_neither_the_store_nor_the_process_table")),
    30: ((REAL, "test_file_that_the_group_may_not_read_stays_so"),),
    31: (("kernel/layer_rows_names.py", "a_root_as_a_symlink_by_dot_is_refused"), (IMAGES, "root that is a link")),
    33: (("unit/test_site_settings.py", "test_mount_outside_of_what_is_allowed_is_refused"), ("unit/test_site_settings.py", "test_allowed_is_what_lies_below_by_name")),
    34: ((CONTAINER, "test_no_capability_and_no_way_to_gain_one"), (CONTAINER, "test_every_mount_is_nosuid_and_only_devices_are_devices"), (RULES, "test_privileges_are_gone_whichever_way_the_task_enters"), (CONTAINER, "test_namespaces_of_its_own_are_asked_for_one_by_one")),
    35: (("e2e/test_hooks.py", "test_start_container_hook_is_the_images_and_has_no_capability"), ("kernel/test_broker.py", "test_the_storekeeper_is_the_service_account_and_nothing_more"), (RULES, "test_root_gets_no_container")),
    36: ((CONTAINER, "test_volumes_with_odd_names_are_those_paths"), (DOORS, "an octal escape is four characters"), ("unit/test_pyxis.py", "test_any_path_can_be_written_and_means_itself"), (CONTAINER, "test_a_size_cannot_smuggle_mount_options")),
    37: (("slurm/test_life.py", "test_no_descriptor_of_ours_reaches_the_application"), (CONTAINER, "test_mounts_do_not_reach_the_host"), (REAL, "test_step_leaves_mounts_and_directories_of_the_host_as_they_were")),
    38: (("e2e/test_gpu.py", "test_driver_never_leaves_the_root"), (REAL, "test_no_program_of_the_host_takes_the_images_libraries"), (IMAGES, "loader variables are the image's")),
}  # fmt: skip

PEERS: dict[str, Entries] = {
    "--container-image": ((PYXIS, "test_every_way_to_name_an_image"), (DOORS, "a squashfs file of enroot by a path that begins with a dot")),
    "--container-mounts": ((DOORS, "MOUNTS = {"), (PYXIS, "test_mounts_of_every_form"), ("unit/test_pyxis.py", "test_a_wrong_mount_is_one_line")),
    "--container-workdir": ((DOORS, "workdir in a mount"), (PYXIS, "test_working_directory_is_the_images_or_the_root")),
    "--container-name": (("slurm/test_named_steps.py", "test_steps_share_what_they_write_and_a_name_alone_takes_up_its_image"), ("slurm/test_named_steps.py", "test_a_step_joins_one_that_runs"), (LINES, "name that is none")),
    "--container-save": (("slurm/test_save.py", "test_a_file_relative_to_the_jobs_directory_holds_what_was_written"), (PYXIS, "--container-save=/tmp/"), (DOORS, "test_variable_of_pyxis_names_the_file_to_save")),
    "--container-mount-home": ((DOORS, "home with --container-mount-home"), (DOORS, "no home with --no-container-mount-home")),
    "--container-remap-root": ((PYXIS, "test_remap_root_is_a_name_and_no_right"), (DOORS, "remapped root is no other user outside")),
    "--container-entrypoint": ((PYXIS, "test_entrypoint_and_its_log"), (DOORS, "entrypoint with its log")),
    "--container-writable, --container-readonly": ((DOORS, "read-only leaves what is mounted writable"), (LINES, "writable and readonly")),
    "--container-env": ((DOORS, "env: several names"), (DOORS, "entrypoint sees the host's value")),
    "--container-unshare": ((PYXIS, "test_unshared_namespaces_are_the_steps_own_and_the_same_for_its_tasks"), ("slurm/test_named_steps.py", "its container has no net namespace of its own")),
    "PYXIS_CONTAINER_*": ((PYXIS, "test_variable_is_the_default_of_its_option"), (DOORS, "WORDS = {"), (LINES, "VARIABLES")),
    "plugstack arguments": ((PYXIS, "test_entrypoint_by_default_where_the_site_says_so"), (PYXIS, "test_arguments_that_mean_nothing_here_are_told_in_slurmds_log"), (PYXIS, "test_sbatch_support_off_leaves_sruns_options")),
    "pyxis_compat=no": ((PYXIS, "test_names_can_be_switched_off_for_a_cluster_that_loads_pyxis"),),
    "locale unset, the image's variables win": ((PYXIS, "test_variables_of_the_host_come_in_but_for_the_locale_and_what_the_image_sets"),),
    "twice with another value": ((LINES, "image, twice"), (DOORS, "workdir: given twice alike")),
    "options without an image": ((PYXIS, "test_options_without_an_image_are_ignored_aloud"),),
    "one line for an error": ((PYXIS, "test_refused_on_the_nodes_in_one_line"), ("slurm/test_bad_input.py", "def line(")),
    "PyTorch": ((PYXIS, "test_ranks_of_pytorch_are_slurms"), (DOORS, "PyTorch's address that is set stays")),
    "enroot's files": ((DOORS, "its /etc/rc is the entrypoint"), ("e2e/test_rootfs.py", "test_script_of_enroot_is_the_entrypoint_and_no_other")),
    "enroot's credentials": (("e2e/test_pull.py", "test_login_of_enroot_opens_a_private_registry"),),
    "EDF keys": ((DOORS, "EDF = {"), (EDF, "test_step_is_what_the_file_describes"), ("unit/test_edf.py", "test_every_key_with_its_line")),
    "EDF expansion": ((DOORS, "env with a default"), ("unit/test_edf.py", "test_expansion"), (DOORS, "entries of env do not see each other")),
    "EDF look-up": ((EDF, "test_options_beat_the_file"), ("unit/test_edf.py", "test_name_is_looked_for_in_the_directories_of_edf_path")),
    "EDF inheritance": ((DOORS, "inherits several, the later beats"), (DOORS, "ten levels"), (DOORS, "eleven levels"), (DOORS, "inherits from itself")),
    "EDF annotations": ((DOORS, "PyTorch's annotation, in a table"), (DOORS, "annotation that is neither")),
    "EDF unknown keys": ((DOORS, "unknown key"),),
    "Sarus run": ((DOORS, "SARUS = {"), ("e2e/test_edf.py", "test_options_of_sarus"), ("e2e/test_edf.py", "test_what_sarus_has_and_cannot_be_had")),
    "Sarus mounts under srun": ((DOORS, "long syntax, several"),),
    "OCI hooks": (("e2e/test_hooks.py", "test_hooks_run_by_stage_and_then_by_name"), ("slurm/test_devices.py", "test_annotation_selects_a_hook_which_runs_once_per_node")),
    "references": ((DOORS, "an OCI archive"), (DOORS, "a docker archive"), (DOORS, "a SIF file"), (DOORS, "a directory"), ("e2e/test_podman.py", "test_image_runs_and_podmans_store_stays_as_it_is")),
}  # fmt: skip


@pytest.mark.parametrize("what", [*ATTACKS, *PEERS])
def test_what_is_said_to_be_shown_is_there(what: int | str) -> None:
    entries = ATTACKS[what] if isinstance(what, int) else PEERS[what]
    for file, name in entries:
        text = (TESTS / file).read_text(encoding="utf-8")
        wanted = f"def {name}(" if name.startswith("test_") else name
        assert wanted in text, f"{file} has no {name}"
