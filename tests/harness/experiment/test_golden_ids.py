"""Names of runs, teachers and evaluations never change, or stored results would not be found.

``golden_ids.json`` was written by release 0.1, ``run_ids.json`` before teachers were supported.
Only a corrected recipe gets new ids: of those listed las-at, las-trades, acat and dajat so far.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.config import RunConfig
from harness.data import dataset_info
from harness.evaluation.attack.protocol import attack_version, evaluation_id, is_standard
from harness.experiment.resolve import recipe_changes, resolve, teacher_run

FOLDER = Path(__file__).parent
GOLDEN = json.loads((FOLDER / "golden_ids.json").read_text())
WITHOUT_TEACHER = json.loads((FOLDER / "run_ids.json").read_text())
DATA, MODEL = "d" * 64, "m" * 64


def id_of_evaluation(config: RunConfig) -> str:
    (protocol,) = config.evaluation.protocols()
    classes = dataset_info(config.data.name).num_classes
    return evaluation_id(protocol, classes, data_sha256=DATA, model_sha256=MODEL)


def names(config: RunConfig) -> dict[str, Any]:
    teacher, (protocol,) = config.teacher, config.evaluation.protocols()
    classes = dataset_info(config.data.name).num_classes
    found = {
        "run_id": config.run_id,
        "teacher_run_id": None,
        "teacher_weights": teacher and teacher.weights,
        "num_classes": classes,
        "evaluation_id": id_of_evaluation(config),
        "attack_version": attack_version(protocol, classes),
        "standard": is_standard(protocol, classes),
        "recipe_changes": recipe_changes(config),
    }
    if teacher and teacher.source == "auto" and teacher.method:
        trained = teacher_run(config)
        found["teacher_run_id"] = trained.run_id
        found["teacher_evaluation_id"] = id_of_evaluation(trained)
    return found


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["found"]["run_id"])
def test_names_of_runs_teachers_and_evaluations_stay(case):
    given = dict(case["given"])
    assert names(resolve(given.pop("method"), **given)) == case["found"]


@pytest.mark.parametrize("method", sorted(WITHOUT_TEACHER))
def test_runs_without_a_teacher_keep_their_names(method):
    for recipe, run_id in WITHOUT_TEACHER[method].items():
        assert resolve(method, recipe=recipe).run_id == run_id
