"""FT: the student imitates a paraphrase of the teacher's feature map (Kim et al., 2018)."""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field
from torch import Tensor, nn, no_grad
from torch.nn.functional import mse_loss

from harness.method import Batch, Forward, Method, MethodCard, StepOutput, TaskContext
from methods import _pairs
from methods._papers import cite
from methods._recipes import Overrides
from methods._steps import detached
from methods.distillation._task import FeatureTask, TwoStageParams
from methods.losses.attention import attention_map
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.precision import float32_or_wider
from methods.losses.stages import pooled_to


def factor_loss(student_BKHW: Tensor, teacher_BKHW: Tensor) -> Tensor:
    """The mean of |Q(s) - Q(t)|, Q the mean square over channels, divided by its length.

    Source: Kim et al., "Paraphrasing complex network: network compression via factor transfer",
    NeurIPS 2018, Eq. 3, with RepDistiller's Q; the paper's is the factor divided by its length.

    Args:
        student_BKHW: the student's factor [B, K, H, W].
        teacher_BKHW: the teacher's factor; no gradient flows into it. The larger one is pooled to
            the smaller.

    Returns:
        A scalar >= 0.
    """
    student_BP = attention_map(pooled_to(student_BKHW, teacher_BKHW))
    teacher_BP = attention_map(pooled_to(teacher_BKHW.detach(), student_BKHW))
    return (student_BP - teacher_BP).abs().mean()


def coder(*channels: int, transposed: bool = False, norm: bool = False) -> nn.Sequential:
    """3x3 convolutions of stride 1, each followed by a leaky ReLU of slope 0.1.

    Args:
        *channels: channels of the input and of each layer's output.
        transposed: use transposed convolutions.
        norm: add a BatchNorm before each activation.
    """
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        layers.append(kind(inputs, outputs, 3, padding=1))
        layers += [nn.BatchNorm2d(outputs)] if norm else []
        layers.append(nn.LeakyReLU(0.1))
    return nn.Sequential(*layers)


class FtParams(TwoStageParams):
    """Weights of the factors and of the paraphrase, and the number of the factors' channels.

    ``factor_channels`` is that number as a share of the teacher's channels.
    """

    factor_weight: float = Field(200.0, ge=0)
    paraphrase_weight: float = Field(0.2, gt=0)
    factor_channels: float = Field(0.5, gt=0, le=1)


class FtTask(FeatureTask):
    """First train an autoencoder of the teacher's last map alone, then the student.

    A network trained alongside translates the student's map to the autoencoder's code.
    """

    def __init__(self, params: FtParams, context: TaskContext) -> None:
        """Build the paraphraser, which is the autoencoder, and the translator."""
        super().__init__(params, context)
        student, teacher = self.student.feature_channels[-1], self.teacher.feature_channels[-1]
        code = max(1, int(params.factor_channels * teacher))
        self.paraphrase = coder(teacher, teacher, code, code)
        self.reconstruct = coder(code, code, teacher, teacher, transposed=True)
        self.translate = coder(student, student, code, code, norm=True)

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """First paraphrase_weight MSE; then label_weight CE + factor_weight times the distance."""
        if self.params.in_first_stage(batch.epoch, self.context.epochs):
            with no_grad():
                map_BKHW = self.teacher_features(batch.x).stages[-1]
            rebuilt_BKHW = self.reconstruct(self.paraphrase(map_BKHW))
            mse = mse_loss(float32_or_wider(rebuilt_BKHW), float32_or_wider(map_BKHW))
            return StepOutput(self.params.paraphrase_weight * mse, detached(paraphrase=mse))
        student, teacher = self.features(model, batch)
        ce = label_cross_entropy(student.logits, batch.targets)
        with no_grad():
            code_BKHW = self.paraphrase(teacher.stages[-1])
        factor = factor_loss(self.translate(student.stages[-1]), code_BKHW)
        loss = self.params.label_weight * ce + self.params.factor_weight * factor
        return StepOutput(loss, detached(ce=ce, factor=factor))


def _settings(pair: _pairs.Pair) -> Overrides:
    full = pair.student in _pairs.LIGHT or pair.student.startswith("vgg")
    weight = {"params": {"paraphrase_weight": 1.0}} if full else {}
    return {**_pairs.two_stages(pair), **weight}


METHOD = Method(
    card=MethodCard(
        title="FT",
        family="distillation",
        summary="First trains an autoencoder to paraphrase the teacher's last map; then trains a "
        "translation of the student's map to imitate the paraphrase.",
        formula=(
            r"\mathtt{paraphrase\_weight}\, \mathrm{mean} (d(p(f_t)) - f_t)^2 \text{ in the first "
            r"stage, then } \mathtt{label\_weight}\, \mathrm{CE}(s, y) + \mathtt{factor\_weight}\, "
            r"\mathrm{mean} |Q(\tau(f_s)) - Q(p(f_t))|"
        ),
        **cite("kim2018paraphrasing"),
        notes=(
            "The first stage has 30 epochs, as in RepDistiller's table. Its learning rate there is "
            "0.01 for students that are ResNets, including wide ones; here the weight 0.2 at "
            "learning rate 0.05 gives the same steps, up to weight decay.",
            "In the formula, p and d are the autoencoder's encoder and decoder and tau the "
            "translation. The paper compares factors divided by their length; Q, which follows "
            "RepDistiller, takes their mean squares over channels and divides these by their "
            "length. The weight 200 is RepDistiller's; "
            "small-scale recipes use 20, since the mean over fewer positions is larger.",
        ),
        needs_teacher=True,
        released_names={"label_weight": "gamma", "factor_weight": "beta", "factor_channels": "k"},
    ),
    params=FtParams,
    task=FtTask,
    recipes=_pairs.recipes(
        _settings, pairs=_pairs.CIFAR_PAIRS, small_changes={"params": {"factor_weight": 20.0}}
    ),
)
