"""Table 7: knowledge distillation on CIFAR-100 between families of architectures."""

from dataclasses import replace

from leaderboards.paper import table5
from leaderboards.paper._common import TEACHER_HEADER, distillation_rows, pairs
from leaderboards.spec import Disputed

TABLE = replace(
    table5.TABLE,
    number=7,
    title="CIFAR-100 distillation, different architectures",
    caption=(
        "Top-1 accuracy (%) on CIFAR-100 where teacher and student are of different families. The "
        "last row is the gain over classical KD; the best of all methods is underlined."
    ),
    columns=pairs(
        (
            ("ResNet32x4", "ShuffleNet-V1"),
            ("WRN-40-2", "ShuffleNet-V1"),
            ("VGG13", "MobileNet-V2"),
            ("ResNet50", "MobileNet-V2"),
            ("ResNet32x4", "ShuffleNet-V2"),
        )
    ),
    rows=distillation_rows(table5.FEATURES, table5.LOGITS, "table7/resnet32x4-shufflenet-v1"),
    first_run="python -m harness run --method ikl-kd --recipe table7/resnet32x4-shufflenet-v1",
    disputed=(
        Disputed(
            {"method": "Delta (IKL-KD minus KD)", "teacher": "WRN-40-2"},
            "The numbers above give 77.19 - 74.83 = 2.36; 2.63 has two digits swapped.",
        ),
    ),
    remarks=(
        TEACHER_HEADER,
        "The names of the students are missing from the paper's text; they are taken from the same "
        "columns published with RepDistiller.",
    ),
)
