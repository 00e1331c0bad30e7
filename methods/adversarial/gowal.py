"""TRADES on a hundred million generated images (Gowal et al., 2021)."""

from __future__ import annotations

from functools import partial

from harness.method import Method, MethodCard
from methods._papers import cite
from methods.adversarial import _generated

METHOD = Method(
    card=MethodCard(
        title="Gowal et al.",
        family="adversarial",
        summary="Trains TRADES on original images and up to a hundred million generated ones, with "
        "a smooth activation function and averaged weights.",
        formula=_generated.FORMULA,
        **cite("gowal2021improving"),
        tables=(4,),
        notes=(
            _generated.PORT_NOTE,
            "For the row with 100 million images the port gives neither the epochs nor the "
            "fraction of generated images; 400 and 0.7 are those for a million. training.epochs "
            "and data.generated_fraction change them.",
            *_generated.TRAINING_NOTES,
        ),
        released_names={"kl_weight": "beta", "label_smoothing": "label_smoothing"},
    ),
    params=_generated.PortedParams,
    task=_generated.SmoothedTradesTask,
    recipes={
        **_generated.by_generated(partial(_generated.ported, size="100m")),
        "table4/gowal-100m": partial(_generated.ported, "cifar10", "100m"),
    },
)
