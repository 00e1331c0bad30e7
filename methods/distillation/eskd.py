"""ESKD: distillation from a teacher whose training is stopped early (Cho and Hariharan, 2019)."""

from __future__ import annotations

from harness.config import merge
from harness.method import Method, MethodCard
from methods import _pairs
from methods._papers import cite
from methods._recipes import Overrides
from methods.distillation.kd import KdParams, KdTask


def stopped_early(student: Overrides, shorter: int) -> Overrides:
    """A distilled run whose teacher's epochs and milestones are divided by ``shorter``."""
    training = student["teacher"]["config"]["training"]
    early: Overrides = {"epochs": training["epochs"] // shorter}
    if milestones := training["optimizer"].get("milestones"):
        early["optimizer"] = {"milestones": [each // shorter for each in milestones]}
    return merge(student, {"teacher": {"config": {"training": early}, "minimum": None}})


def _pair(pair: _pairs.Pair, dataset: str) -> Overrides:
    return stopped_early(_pairs.distilled(pair, dataset), shorter=3)


def _small(dataset: str) -> Overrides:
    return stopped_early(_pairs.small(dataset), shorter=2)


METHOD = Method(
    card=MethodCard(
        title="ESKD",
        family="distillation",
        summary="KD from a teacher whose training is stopped early, so that a small student can "
        "imitate its predictions.",
        formula=(
            r"\mathtt{label\_weight}\, \mathrm{CE}(s, y) + \mathtt{kd\_weight}\, T^2 "
            r"D_{\mathrm{KL}}(\mathrm{Softmax}(t / T) \,\|\, \mathrm{Softmax}(s / T)), \quad T = "
            r"\mathtt{temperature}, \quad t \text{ stopped early}"
        ),
        **cite("cho2019efficacy"),
        notes=(
            "The teacher is a run of vanilla with a third of the usual epochs and a learning rate "
            "that falls correspondingly earlier; teacher.config.training sets both. The third is "
            "this project's choice: the paper tries several lengths for other networks and "
            "schedules, and releases no code for these pairs. Small-scale recipes use half.",
            "Weights and temperature are KD's. The paper also stops the distillation itself before "
            "the end of the student's training; here it lasts to the end.",
        ),
        needs_teacher=True,
    ),
    params=KdParams,
    task=KdTask,
    recipes=_pairs.recipes_from(_small, _pair),
)
