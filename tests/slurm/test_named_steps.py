"""Named containers in jobs: kept between steps on each node, joined while one runs."""

from __future__ import annotations

import jobs
from jobs import SMALL

NAMED = ("srun", "-N1", "-n1", f"--container={SMALL}", "--container-name=box")


def script(*lines: str, **options: str) -> tuple[int, str]:
    done = jobs.run("salloc", "-Q", "-N1", "-n2", "bash", "-c", "\n".join(lines), **options)
    return done.returncode, done.stdout + done.stderr


def test_steps_of_a_job_share_what_they_write_and_the_next_job_does_not() -> None:
    srun = " ".join(NAMED)
    write = f"{srun} sh -c 'echo kept > /srv-new'"
    read = f"{srun} cat /srv-new"
    assert script(write, read) == (0, "kept\n")
    status, text = script(read)
    assert status != 0
    assert "/srv-new" in text


def test_a_step_joins_one_that_runs() -> None:
    srun = " ".join(NAMED)
    status, text = script(
        f"{srun} --overlap sh -c 'touch /up; while ! test -e /stop; do sleep 0.1; done' &",
        f"until {srun}:exec --overlap test -e /up 2>/dev/null; do sleep 0.3; done",
        f"{srun}:no_exec --overlap true",
        "srun -N1 -n1 --overlap fairlead ps --json | grep name",
        "srun -N1 -n1 --overlap fairlead exec box touch /stop",
        "wait",
    )
    assert "error [container]: box: runs already, as process " in text
    assert '.box"' in text
    assert status == 0, text


def test_a_name_alone_takes_up_the_image_that_it_has() -> None:
    srun = " ".join(NAMED)
    bare = "srun -N1 -n1 --container-name=box"
    status, text = script(f"{srun} sh -c 'echo x > /new'", f"{bare} cat /new")
    assert (status, text) == (0, "x\n")
