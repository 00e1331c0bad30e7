"""Table 5: knowledge distillation on CIFAR-100 within one family of architectures."""

from leaderboards.paper._common import (
    DISTILLED,
    KD_SELECTION,
    SUBJECT,
    TEACHER_HEADER,
    distillation_rows,
    pairs,
)
from leaderboards.spec import BEST_ON_TEST, LAST, Disputed, Scale, TableSpec

FEATURES = (
    ("FitNet", "FitNet [48]", "fitnet", LAST),
    ("RKD", "RKD [64]", "rkd", LAST),
    ("CRD", "CRD [49]", "crd", LAST),
    ("OFD", "OFD [50]", "ofd", BEST_ON_TEST),
    ("ReviewKD", "ReviewKD [29]", "reviewkd", BEST_ON_TEST),
)
LOGITS = (
    ("DKD", "DKD [18]", "dkd", BEST_ON_TEST),
    ("KD", "KD [28]", "kd", LAST),
    ("IKL-KD", "IKL-KD", "ikl-kd", BEST_ON_TEST),
)

TABLE = TableSpec(
    number=5,
    title="CIFAR-100 distillation, same architecture",
    subject=SUBJECT,
    scale=Scale("CIFAR-100", "ResNet20", 240, 50_000, 10_000),
    caption=(
        "Top-1 accuracy (%) on CIFAR-100 where teacher and student are of the same family. The "
        "last row is the gain over classical KD; the best of all methods is underlined."
    ),
    protocol="CIFAR-100, mean of three runs",
    selection=KD_SELECTION,
    labels=("Method",),
    columns=pairs(
        (
            ("ResNet56", "ResNet20"),
            ("ResNet110", "ResNet32"),
            ("ResNet32x4", "ResNet8x4"),
            ("WRN-40-2", "WRN-16-2"),
            ("WRN-40-2", "WRN-40-1"),
            ("VGG13", "VGG8"),
        )
    ),
    rows=distillation_rows(FEATURES, LOGITS, "table5/resnet56-resnet20"),
    where={"dataset": "CIFAR-100"},
    attacked=False,
    models=3,
    stub="Distillation manner",
    includes=DISTILLED,
    first_run="python -m harness run --method ikl-kd --recipe table5/resnet56-resnet20",
    disputed=(
        Disputed(
            {"method": "Delta (IKL-KD minus KD)", "teacher": "ResNet110"},
            "The numbers above give 74.26 - 73.08 = 1.18, not 1.16.",
        ),
    ),
    remarks=(TEACHER_HEADER,),
)
