"""Table 6: the two weights of IKL, under each attack."""

from leaderboards.paper._common import (
    AA,
    ALPHA,
    APGD_CE,
    APGD_T,
    BEST_LOG,
    BETA,
    CLEAN,
    IMPOSSIBLE,
    ablation,
)
from leaderboards.spec import Disputed

TABLE = ablation(
    6,
    4,
    (12, 16, 20, 24),
    (1, 2, 3, 4),
    title="weights of IKL under each attack",
    caption=f"Ablation of the weights {ALPHA} and {BETA} of IKL. APGD-T attacks only the images "
    "left by APGD-CE.",
    columns=(CLEAN, AA, APGD_CE, APGD_T),
    disputed=(Disputed({"panel": "b", "beta": "1"}, IMPOSSIBLE, ("aa", "apgd_t")),),
    logged=(BEST_LOG,),
)
