"""TRADES on images of a better diffusion model (Wang et al., 2023)."""

from __future__ import annotations

from functools import partial

from harness.method import Method, MethodCard
from methods._papers import cite
from methods.adversarial import _generated

METHOD = Method(
    card=MethodCard(
        title="Better DM (Wang et al.)",
        family="adversarial",
        summary="Trains TRADES on original images and many images from a better diffusion model, "
        "with a smooth activation function, a one-cycle schedule and averaged weights.",
        formula=_generated.FORMULA,
        **cite("wang2023better"),
        tables=(2, 4),
        notes=(
            "Seven tenths of each batch are generated. The original images set the number of steps "
            "per epoch, 98 at batch size 512, for any number of generated ones.",
            "The authors' million images are, for each class, the fifth of five million with the "
            "highest classifier confidence; their larger sets are not selected.",
            _generated.LONG_NOTE,
            *_generated.TRAINING_NOTES,
        ),
        released_names={"kl_weight": "beta", "label_smoothing": "ls"},
    ),
    params=_generated.SmoothedTradesParams,
    task=_generated.SmoothedTradesTask,
    recipes={
        **_generated.by_generated(partial(_generated.edm, size="1m")),
        "table2/wang-dm-1m": partial(_generated.edm, "cifar100", "1m"),
        "table2/wang-dm-50m": partial(_generated.edm, "cifar100", "50m"),
        "table4/wang-dm-1m": partial(_generated.edm, "cifar10", "1m"),
        "table4/wang-dm-20m": partial(_generated.edm, "cifar10", "20m"),
        "table4/wang-dm-50m": partial(_generated.edm, "cifar10", "50m"),
    },
)
