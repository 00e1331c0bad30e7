"""BAN: generations of one network, each distilled from the previous (Furlanello et al., 2018)."""

from __future__ import annotations

from pydantic import Field

from harness.config import merge
from harness.method import Method, MethodCard
from methods import _pairs
from methods._papers import cite
from methods._recipes import Overrides
from methods.distillation.kd import KdParams, KdTask

GENERATIONS = 2


class BanParams(KdParams):
    """Labels and the previous generation have the same weight, at temperature 1."""

    label_weight: float = Field(1.0, ge=0)
    kd_weight: float = Field(1.0, ge=0)
    temperature: float = Field(1.0, gt=0)


def generation(natural: Overrides, number: int) -> Overrides:
    """The run of generation ``number``; number 0 learns from labels alone.

    Args:
        natural: the natural training of the network.
        number: >= 0.
    """
    if number == 0:
        # Explicit, since this may be merged over a recipe with a teacher.
        return {**natural, "teacher": None}
    teacher = {
        "arch": natural["model"]["arch"],
        "method": "ban" if number > 1 else "vanilla",
        "recipe": "auto",
        "config": generation(natural, number - 1),
        "minimum": None,
    }
    return {**natural, "teacher": teacher}


def _pair(pair: _pairs.Pair, dataset: str) -> Overrides:
    natural = _pairs.natural(dataset, pair.student)
    return merge(generation(natural, GENERATIONS), _pairs.BOTH_RULES)


def _small(dataset: str) -> Overrides:
    student = _pairs.small(dataset)
    return generation({**student, "teacher": None}, GENERATIONS)


METHOD = Method(
    card=MethodCard(
        title="BAN",
        family="distillation",
        summary="Trains successive generations of one architecture, each on labels and on the "
        "predictions of the previous generation.",
        formula=(
            r"\mathtt{label\_weight}\, \mathrm{CE}(s_k, y) + \mathtt{kd\_weight}\, T^2 "
            r"D_{\mathrm{KL}}(\mathrm{Softmax}(s_{k-1} / T) \,\|\, \mathrm{Softmax}(s_k / T)), "
            r"\quad T = \mathtt{temperature}"
        ),
        **cite("furlanello2018born"),
        notes=(
            "Recipes end with the second generation after the first network, which learns from "
            "labels alone; a pair's recipe uses its student in all of them. Each generation is a "
            "separate run, trained if it is missing and shared. More generations can be nested in "
            "teacher.config.",
            "Earlier generations have seed 0, like every teacher, so at seed 0 all generations "
            "have the same initial weights and batches unless teacher.seed differs.",
            "The paper's other objectives, which weight or permute the teacher's predictions, and "
            "its ensembles of generations are left out.",
        ),
        needs_teacher=True,
    ),
    params=BanParams,
    task=KdTask,
    recipes=_pairs.recipes_from(_small, _pair),
)
