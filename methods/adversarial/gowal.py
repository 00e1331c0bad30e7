"""TRADES on a hundred million generated images (Gowal et al., 2021)."""

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
        title="Gowal et al.",
        family="adversarial",
        summary="TRADES on original images and up to a hundred million generated ones, with a "
        "smooth model and averaged weights.",
        formula=FORMULA,
        **cite("gowal2021improving"),
        tables=(4,),
        notes=(
            PORT_NOTE,
            "The port does not give the epochs and the fraction of generated images of the row "
            "with 100 million: 400 and 0.7 are those of a million. training.epochs and "
            "data.generated_fraction change them.",
            *TRAINING_NOTES,
        ),
        released_names=RELEASED_NAMES,
    ),
    params=PortedParams,
    task=SmoothedTradesTask,
    recipes={
        **by_generated(partial(ddpm, size="100m", changes=WIDE_BATCH)),
        "table4/gowal-100m": partial(ddpm, "cifar10", "100m", WIDE_BATCH),
    },
)
