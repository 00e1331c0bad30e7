"""TAKD: the teacher's knowledge passes through an assistant (Mirzadeh et al., 2020)."""

from __future__ import annotations

from harness.config import merge
from harness.method import Method, MethodCard
from methods import _pairs
from methods._papers import cite
from methods._recipes import Overrides
from methods.distillation.kd import KdParams, KdTask

# Each has fewer parameters than the teacher and more than the student.
ASSISTANTS = {
    "resnet56-resnet20": "resnet32",
    "resnet110-resnet32": "resnet56",
    "resnet32x4-resnet8x4": "wrn-40-2",
    "wrn-40-2-wrn-16-2": "resnet8x4",
    "wrn-40-2-wrn-40-1": "wrn-16-2",
    "vgg13-vgg8": "resnet32x4",
    "resnet32x4-shufflenet-v1": "wrn-40-2",
    "wrn-40-2-shufflenet-v1": "resnet8x4",
    "vgg13-mobilenet-v2": "vgg8",
    "resnet50-mobilenet-v2": "resnet32x4",
    "resnet32x4-shufflenet-v2": "wrn-40-2",
}


def through_assistant(student: Overrides, assistant: Overrides) -> Overrides:
    """The student's recipe, with its teacher replaced by an assistant distilled from it.

    Args:
        student: a distilled run.
        assistant: the natural training of the assistant.
    """
    teacher = {
        "arch": assistant["model"]["arch"],
        "method": "kd",
        "recipe": "auto",
        "config": merge(assistant, {"teacher": student["teacher"]}),
        "minimum": None,
    }
    return {**student, "teacher": teacher}


def _pair(pair: _pairs.Pair, dataset: str) -> Overrides:
    assistant = _pairs.natural(dataset, ASSISTANTS[pair.name])
    return through_assistant(_pairs.distilled(pair, dataset), assistant)


def _small(dataset: str) -> Overrides:
    student = _pairs.small(dataset)
    natural = {key: value for key, value in student.items() if key != "teacher"}
    return through_assistant(student, merge(natural, {"model": {"arch": "resnet14"}}))


METHOD = Method(
    card=MethodCard(
        title="TAKD",
        family="distillation",
        summary="Distils the teacher into an assistant of intermediate size, and the assistant "
        "into the student, by KD.",
        formula=(
            r"\mathtt{label\_weight}\, \mathrm{CE}(s, y) + \mathtt{kd\_weight}\, T^2 "
            r"D_{\mathrm{KL}}(\mathrm{Softmax}(a / T) \,\|\, \mathrm{Softmax}(s / T)), \quad T = "
            r"\mathtt{temperature}, \quad a \text{ by KD from } t"
        ),
        **cite("mirzadeh2020improved"),
        notes=(
            "The assistant is a run of kd, and its teacher one of vanilla: both are trained if "
            "they are missing, and shared with all runs that need them. Longer chains can be "
            "nested in teacher.config.",
            "On CIFAR the paper's assistants are of the same plain or residual family, chosen by "
            "size. The pairs here are not in the paper; their assistants are registered networks "
            "of a size between teacher and student. Weights and temperature are KD's. The released "
            "loss is (1 - lambda) CE + lambda T^2 KL with a divergence averaged over the classes "
            "too.",
        ),
        needs_teacher=True,
        released_names={"temperature": "T_student"},
    ),
    params=KdParams,
    task=KdTask,
    recipes=_pairs.recipes_from(_small, _pair, pairs=ASSISTANTS),
)
