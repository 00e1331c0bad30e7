"""TRADES on generated images and augmented originals (Rebuffi et al., 2021)."""

from __future__ import annotations

from functools import partial

from harness.method import Method, MethodCard
from methods.adversarial._generated import (
    FORMULA,
    PORT_NOTE,
    RELEASED_NAMES,
    TRAINING_NOTES,
    WIDE_BATCH,
    PortedParams,
    SmoothedTradesTask,
    by_generated,
    ddpm,
)

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
            PORT_NOTE,
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
        released_names=RELEASED_NAMES,
    ),
    params=PortedParams,
    task=SmoothedTradesTask,
    recipes={
        **by_generated(partial(ddpm, size="1m", changes=WIDE_BATCH)),
        "table2/rebuffi-1m": partial(ddpm, "cifar100", "1m", WIDE_BATCH),
        "table4/rebuffi-1m": partial(ddpm, "cifar10", "1m", WIDE_BATCH),
    },
)
