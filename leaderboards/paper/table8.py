"""Table 8: the weights of IKL at temperature 4 of the global information."""

from leaderboards.paper._common import BEST_LOG, IMPOSSIBLE, TAU, ablation
from leaderboards.spec import Disputed

TABLE = ablation(
    8,
    4,
    (12, 16, 20, 24),
    (1, 2, 3, 4),
    title="weights of IKL at temperature 4",
    caption=f"Ablation of the weights of IKL with {TAU} = 4 for the global information.",
    disputed=(Disputed({"panel": "b", "beta": "1"}, IMPOSSIBLE, ("aa",)),),
    logged=(BEST_LOG,),
)
