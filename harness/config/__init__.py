"""The configuration of a run, and the run's identity.

Every field is either part of the run's identity (it changes the result) or a cost (it changes only
where, how fast or how verbosely the result is computed), as ``identity(...)`` or ``cost(...)``
declares. Two runs with equal identities are the same run: the second resumes or returns the first.
"""

from harness.config.base import Radius as Radius
from harness.config.base import Section as Section
from harness.config.base import Strict as Strict
from harness.config.base import assign as assign
from harness.config.base import eps_text as eps_text
from harness.config.base import fingerprint as fingerprint
from harness.config.base import flat as flat
from harness.config.base import merge as merge
from harness.config.base import parse_fraction as parse_fraction
from harness.config.evaluation import ATTACK_SETS as ATTACK_SETS
from harness.config.evaluation import STANDARD_ATTACKS as STANDARD_ATTACKS
from harness.config.evaluation import AttackBudget as AttackBudget
from harness.config.evaluation import AttackName as AttackName
from harness.config.evaluation import EvalConfig as EvalConfig
from harness.config.evaluation import EvalProtocol as EvalProtocol
from harness.config.evaluation import EvalSettings as EvalSettings
from harness.config.evaluation import Norm as Norm
from harness.config.evaluation import parse_budget as parse_budget
from harness.config.run import AveragingConfig as AveragingConfig
from harness.config.run import DataConfig as DataConfig
from harness.config.run import InnerAttackConfig as InnerAttackConfig
from harness.config.run import OptimizerConfig as OptimizerConfig
from harness.config.run import RunConfig as RunConfig
from harness.config.run import TeacherConfig as TeacherConfig
from harness.config.run import TrainConfig as TrainConfig
