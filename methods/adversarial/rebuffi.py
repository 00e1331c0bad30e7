"""TRADES on generated images and augmented originals (Rebuffi et al., 2021)."""

from __future__ import annotations

from functools import partial

from harness.method import Method, MethodCard
from methods._papers import cite
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
        summary="TRADES on original images and a million generated ones, with a smooth model and "
        "averaged weights.",
        formula=FORMULA,
        **cite("rebuffi2021fixing"),
        tables=(2, 4),
        notes=(
            PORT_NOTE,
            "The paper also mixes images by CutMix; neither the port nor this recipe does.",
            *TRAINING_NOTES,
        ),
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
