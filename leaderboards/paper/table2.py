"""Table 2: adversarial training on CIFAR-100."""

from leaderboards.paper._adversarial import adversarial_table, row
from leaderboards.paper._common import (
    ALPHA,
    BEST_LOG,
    BETA,
    KL_BASELINE,
    SECOND_LOG,
    ikl_params,
)
from leaderboards.spec import BEST_ON_TEST, LAST, Logged

TABLE = adversarial_table(
    2,
    "CIFAR-100",
    (
        row("AWP", "[25]", "WRN-34-10", "Basic", "table2/at-awp", "at-awp", BEST_ON_TEST),
        row("LBGAT", "[26]", "WRN-34-10", "Basic", "table2/lbgat", "lbgat"),
        row("LAS-AT", "[27]", "WRN-34-10", "Basic", "table2/las-at", "las-awp"),
        row("ACAT", "[40]", "WRN-34-10", "Basic", "table2/acat", "acat"),
        *(
            row(
                *("IKL-AT", "", "WRN-34-10", "Basic", f"table2/ikl-a20-b{beta}", "ikl", LAST),
                label=f"IKL-AT ({ALPHA}=20, {BETA}={beta})",
                params=ikl_params(20, beta, tau),
                where={"alpha": "20", "beta": str(beta)},
            )
            for beta, tau in ((3, 4), (4, 2))
        ),
        row("", "[61]", "WRN-34-10", "1M", "table2/proxy-1m", "proxy", BEST_ON_TEST),
        row("", "[59]", "WRN-28-10", "1M", "table2/score-1m", "score"),
        row("", "[62]", "WRN-28-10", "1M", "table2/rebuffi-1m", "rebuffi"),
        row("", "[38]", "WRN-28-10", "1M", "table2/wang-dm-1m", "wang-dm"),
        row("", "[38]", "WRN-28-10", "50M", "table2/wang-dm-50m", "wang-dm"),
        row("IKL-AT", "", "WRN-28-10", "1M", "table2/ikl-1m", "ikl"),
        row("IKL-AT", "", "WRN-28-10", "50M", "table2/ikl-50m", "ikl"),
    ),
    notes={
        "[25]": "The numbers are those of AT-AWP, which also rotates the images; the authors "
        "of ACAT report 62.41 / 29.54 for TRADES-AWP on this architecture.",
        "[26]": "RobustBench lists this model at radius 0.031. LBGAT with weight perturbation "
        "at 8/255, 62.99 / 31.20, is left out of the table.",
        "[61]": "RobustBench lists 65.93 / 31.15.",
        "[59]": "The authors' repository and RobustBench list 63.66 / 31.08.",
    },
    basic=KL_BASELINE,
    basic_text="row (a) of Table 1",
    bold="Bold: better than the strongest baseline of the same training setting.",
    first_run="python -m harness run --recipe table2/ikl-a20-b3",
    logged=(
        BEST_LOG,
        SECOND_LOG,
        Logged(
            {"method": "IKL-AT", "augmentation": "50M Generated Data"},
            {"clean": 73.85, "aa": 39.18},
        ),
        Logged({"method": "AWP"}, {"clean": 60.38, "aa": 28.86}, "log released with AWP, AT-AWP"),
    ),
    remarks=(
        "RobustBench lists another model of the paper on WRN-34-10, 65.76 / 31.91.",
        "The weights and temperature of the second IKL-AT row are taken from the row of Table 9 "
        "with the same numbers.",
    ),
)
