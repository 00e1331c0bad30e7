"""TRADES on images of a better diffusion model (Wang et al., 2023)."""

from __future__ import annotations

from functools import partial

from harness.method import Method, MethodCard
from methods._papers import cite
from methods.adversarial._generated import (
    FORMULA,
    LONG_NOTE,
    RELEASED_NAMES,
    TRAINING_NOTES,
    SmoothedTradesParams,
    SmoothedTradesTask,
    by_generated,
    edm,
)

METHOD = Method(
    card=MethodCard(
        title="Better DM (Wang et al.)",
        family="adversarial",
        summary="TRADES on original images and many generated ones of a better diffusion model, "
        "with a smooth model, a one-cycle schedule and averaged weights.",
        formula=FORMULA,
        **cite("wang2023better"),
        tables=(2, 4),
        notes=(
            "Seven tenths of each batch are generated. The original images set the steps of an "
            "epoch, 98 at batch 512, for any number of generated ones.",
            "The authors' million images are the tenth of five million with the highest classifier "
            "confidence; their larger sets are not selected.",
            LONG_NOTE,
            *TRAINING_NOTES,
        ),
        released_names=RELEASED_NAMES,
    ),
    params=SmoothedTradesParams,
    task=SmoothedTradesTask,
    recipes={
        **by_generated(partial(edm, size="1m")),
        "table2/wang-dm-1m": partial(edm, "cifar100", "1m"),
        "table2/wang-dm-50m": partial(edm, "cifar100", "50m"),
        "table4/wang-dm-1m": partial(edm, "cifar10", "1m"),
        "table4/wang-dm-20m": partial(edm, "cifar10", "20m"),
        "table4/wang-dm-50m": partial(edm, "cifar10", "50m"),
    },
)
