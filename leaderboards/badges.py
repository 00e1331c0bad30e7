"""Where a number comes from, as a letter or two beside it wherever it is shown, and its marks."""

PRINTED = "P"
ROBUSTBENCH = "RB"
LOGGED = "L"
REPRODUCED = "R"
SMALL = "S"
DISPUTED = "!"
FLAGGED = "?"

MEANINGS = {
    PRINTED: "printed in the paper",
    DISPUTED: "printed in the paper, which contradicts itself here",
    LOGGED: "in the log that the authors released",
    ROBUSTBENCH: "published by RobustBench",
    REPRODUCED: "measured here at the paper's scale",
    SMALL: "measured here at small scale; never ranked with the others",
    FLAGGED: "a measured number with reason to doubt it",
}

# What stands beside numbers; print and RobustBench give none.
INTERVAL = "95% interval (Wilson) from n test images, computed here for printed numbers too"
OF_MEANS = (
    "of a mean over seeds Student's t interval, or that of one seed's images where it is wider"
)
