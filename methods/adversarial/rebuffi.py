"""TRADES on generated images and augmented originals (Rebuffi et al., 2021)."""

from __future__ import annotations

from functools import partial

from harness.method import Method, MethodCard
from methods._papers import cite
from methods.adversarial import _generated

METHOD = Method(
    card=MethodCard(
        title="Rebuffi et al.",
        family="adversarial",
        summary="Trains TRADES on original images and a million generated ones, with a smooth "
        "activation function and averaged weights.",
        formula=_generated.FORMULA,
        **cite("rebuffi2021fixing"),
        tables=(2, 4),
        notes=(
            _generated.PORT_NOTE,
            "The paper also mixes images by CutMix; neither the port nor this recipe does, but "
            "data.cutmix turns it on.",
            *_generated.TRAINING_NOTES,
        ),
        released_names={"kl_weight": "beta", "label_smoothing": "label_smoothing"},
    ),
    params=_generated.PortedParams,
    task=_generated.SmoothedTradesTask,
    recipes={
        **_generated.by_generated(partial(_generated.ported, size="1m")),
        "table2/rebuffi-1m": partial(_generated.ported, "cifar100", "1m"),
        "table4/rebuffi-1m": partial(_generated.ported, "cifar10", "1m"),
    },
)
