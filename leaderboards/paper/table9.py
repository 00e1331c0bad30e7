"""Table 9: the weights of IKL at temperature 2 of the global information."""

from leaderboards.paper._common import SECOND_LOG, TAU, ablation

TABLE = ablation(
    9,
    2,
    (15, 18, 20, 24),
    (2, 3, 4, 5),
    title="weights of IKL at temperature 2",
    caption=f"Ablation of the weights of IKL with {TAU} = 2 for the global information.",
    same_row="64.08 / 31.67 is the second IKL-AT row",
    logged=(SECOND_LOG,),
)
