"""The configuration of a run, and the run's identity.

Every field is either part of the run's identity (it changes the result) or a cost (it changes only
where, how fast or how verbosely the result is computed), as ``identity(...)`` or ``cost(...)``
declares. Two runs with equal identities are the same run: the second resumes or returns the first.
"""

from harness.config.base import (
    Section,
    Strict,
    assign,
    fingerprint,
    flat,
    merge,
)
from harness.config.run import (
    STANDARD_ATTACKS,
    AttackName,
    AveragingConfig,
    DataConfig,
    EvalConfig,
    InnerAttackConfig,
    Norm,
    OptimizerConfig,
    Radius,
    RunConfig,
    TeacherConfig,
    TrainConfig,
    eps_text,
    parse_fraction,
)

__all__ = [
    "STANDARD_ATTACKS",
    "AttackName",
    "AveragingConfig",
    "DataConfig",
    "EvalConfig",
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
