"""Table 4: adversarial training on CIFAR-10."""

from leaderboards.paper._adversarial import adversarial_table, row
from leaderboards.paper._common import ikl_params
from leaderboards.spec import BEST_ON_TEST, LAST, Baseline, Disputed, Logged

TABLE = adversarial_table(
    4,
    "CIFAR-10",
    (
        row("", "[63]", "WRN-34-20", "Basic", "table4/pgd-at", "pgd-at", BEST_ON_TEST),
        row("LBGAT", "[26]", "WRN-34-20", "Basic", "table4/lbgat", "lbgat"),
        row("AWP", "[25]", "WRN-34-10", "Basic", "table4/trades-awp", "trades-awp"),
        row("LAS-AT", "[27]", "WRN-34-10", "Basic", "table4/las-at", "las-awp"),
        row("ACAT", "[40]", "WRN-34-10", "Basic", "table4/acat", "acat"),
        row(
            *("IKL-AT", "", "WRN-34-10", "Basic", "table4/ikl", "ikl", LAST),
            params=ikl_params(20, 3, 4),
        ),
        row("", "[61]", "WRN-34-10", "10M", "table4/proxy-10m", "proxy", BEST_ON_TEST),
        row("", "[62]", "WRN-28-10", "1M", "table4/rebuffi-1m", "rebuffi"),
        row("", "[37]", "WRN-28-10", "100M", "table4/gowal-100m", "gowal"),
        row("", "[38]", "WRN-28-10", "1M", "table4/wang-dm-1m", "wang-dm"),
        row("", "[38]", "WRN-28-10", "50M", "table4/wang-dm-50m", "wang-dm"),
        row("", "[38]", "WRN-28-10", "20M", "table4/wang-dm-20m", "wang-dm"),
        row("IKL-AT", "", "WRN-28-10", "1M", "table4/ikl-1m", "ikl"),
        row("IKL-AT", "", "WRN-28-10", "20M", "table4/ikl-20m", "ikl"),
    ),
    notes={
        "[63]": "The authors' log: best epoch on the test images 85.34, last epoch 87.12.",
        "[26]": "RobustBench lists this model at radius 0.031.",
        "[25]": "The numbers are those of TRADES-AWP.",
        "[27]": "RobustBench also lists 84.98 / 56.26 for this method and architecture.",
        "[40]": "82.41 is ACAT's clean accuracy on ResNet-18; its authors' figure for "
        "WRN-34-10 gives 86.71 / 55.36.",
        "[61]": "RobustBench lists 86.68 / 60.27.",
    },
    basic=Baseline(
        {"student_or_arch": "WRN-34-10", "augmentation": "Basic"},
        {"table": "4", "citation": "[25]"},
        "trades-awp",
    ),
    basic_text="TRADES-AWP (the row AWP)",
    bold="Bold: better than the strongest baseline of the same training setting; underlined: "
    "better than all previous results.",
    first_run="python -m harness run --recipe table4/ikl",
    disputed=(
        Disputed(
            {"method": "IKL-AT", "augmentation": "Basic"},
            "Section 4.1 gives this model 84.70% clean accuracy; Appendix D and the authors' log "
            "give 85.31, as here.",
            ("clean",),
        ),
    ),
    logged=(
        Logged({"method": "IKL-AT", "augmentation": "Basic"}, {"clean": 85.31, "aa": 57.09}),
        Logged(
            {"method": "IKL-AT", "augmentation": "20M Generated Data"},
            {"clean": 92.16, "aa": 67.73},
        ),
        Logged(
            {"method": "AWP"}, {"clean": 85.36, "aa": 56.17}, "log released with AWP, TRADES-AWP"
        ),
    ),
    remarks=("RobustBench lists 57.09 and 67.73 for the paper's models, as the authors' logs do.",),
)
