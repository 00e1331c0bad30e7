"""Where a number comes from, as one letter that stands beside it wherever it is shown."""

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
}
