"""The configuration of a run, and the run's identity.

Every field is either part of the run's identity (it changes the result) or a cost (it changes only
where, how fast or how verbosely the result is computed), as ``identity(...)`` or ``cost(...)``
declares. Two runs with equal identities are the same run: the second resumes or returns the first.
"""

from harness.config.base import (
    Radius,
    Section,
    Strict,
    assign,
    eps_text,
    fingerprint,
    flat,
    merge,
    parse_fraction,
)
from harness.config.evaluation import (
    STANDARD_ATTACKS,
    AttackBudget,
    AttackName,
    EvalConfig,
    EvalProtocol,
    EvalSettings,
    Norm,
)
from harness.config.run import (
    AveragingConfig,
    DataConfig,
    InnerAttackConfig,
    OptimizerConfig,
    RunConfig,
    TeacherConfig,
    TrainConfig,
)

__all__ = [
    "STANDARD_ATTACKS",
    "AttackBudget",
    "AttackName",
    "AveragingConfig",
    "DataConfig",
    "EvalConfig",
    "EvalProtocol",
    "EvalSettings",
    "InnerAttackConfig",
    "Norm",
    "OptimizerConfig",
    "Radius",
    "RunConfig",
    "Section",
    "Strict",
    "TeacherConfig",
    "TrainConfig",
    "assign",
    "eps_text",
    "fingerprint",
    "flat",
    "merge",
    "parse_fraction",
]
