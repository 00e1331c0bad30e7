"""What is checked before a run begins."""

import json
from pathlib import Path

from harness.store.rundir import RunDirectory


def test_a_student_may_begin_while_another_process_trains_its_teacher(call, tmp_path: Path) -> None:
    """The run then waits for the teacher, so neither it nor a dry run is refused before."""
    command = ["run", "--method", "kd", "--seed", "1", "--dry-run", "--results", str(tmp_path)]
    plan = json.loads(call(*command, "--json").out)
    teacher, student = (
        RunDirectory.create(tmp_path, run_id)
        for run_id in (plan["teacher"]["run_id"], plan["run_id"])
    )
    teacher.update()
    with teacher.lock():
        ended = call(*command)
        assert (ended.status, ended.err) == (0, "")
        student.update()
        with student.lock():
            assert f"another process is working on run {student.run_id}" in call(*command).err
