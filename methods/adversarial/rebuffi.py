"""TRADES on generated images and augmented originals (Rebuffi et al., 2021)."""

from __future__ import annotations

from functools import partial

from pydantic import Field

from harness.method import Method, MethodCard
from methods.adversarial._generated import (
    FORMULA,
    TRAINING_NOTES,
    WIDE_BATCH,
    SmoothedTradesParams,
    SmoothedTradesTask,
    by_generated,
    ddpm,
)


class RebuffiParams(SmoothedTradesParams):
    """The weight of the divergence as in TRADES."""

    kl_weight: float = Field(6.0, ge=0)


METHOD = Method(
    card=MethodCard(
        title="Rebuffi et al.",
        family="adversarial",
        summary="TRADES on original images and a million generated ones, with a smooth network and "
        "averaged weights.",
        formula=FORMULA,
        paper="Rebuffi, Gowal, Calian, Stimberg, Wiles, Mann: Fixing Data Augmentation to Improve "
        "Adversarial Robustness, arXiv 2021",
        url="https://arxiv.org/abs/2103.01946",
        tables=(2, 4),
        notes=(
            "The authors' own trainer is in another framework. These are the settings of its "
            "public port, batch 1024 and rate 0.4, over 400 epochs.",
            "The paper also mixes images by CutMix; the port does not, nor is it done here.",
            *TRAINING_NOTES,
        ),
        bibtex="""@article{rebuffi2021fixing,
  title = {Fixing Data Augmentation to Improve Adversarial Robustness},
  author = {Rebuffi, Sylvestre-Alvise and Gowal, Sven and Calian, Dan A. and Stimberg, Florian and
            Wiles, Olivia and Mann, Timothy},
  journal = {arXiv preprint arXiv:2103.01946},
  year = {2021}
}""",
        released_names={"kl_weight": "beta", "label_smoothing": "ls"},
    ),
    params=RebuffiParams,
    task=SmoothedTradesTask,
    recipes={
        **by_generated(partial(ddpm, size="1m", changes=WIDE_BATCH)),
        "table2/rebuffi-1m": partial(ddpm, "cifar100", "1m", WIDE_BATCH),
        "table4/rebuffi-1m": partial(ddpm, "cifar10", "1m", WIDE_BATCH),
    },
)
