"""Feature methods against plain float64 transcriptions of their losses."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy

from harness.errors import UserError
from harness.method import Batch, Task
from harness.models.features import Features
from harness.registry import METHODS
from methods.distillation._task import FeatureTask
from methods.distillation.crd import CrdTask
from tests.methods.conftest import assert_same_loss
from tests.methods.distillation.conftest import TRAIN_SIZE, Step, make_step
from tests.methods.losses import transcriptions as plain

FEATURE_METHODS = [
    name
    for name in METHODS.names()
    if isinstance(task := METHODS.get(name).task, type) and issubclass(task, FeatureTask)
]
CRD = {"negatives": 9, "embedding_size": 5}


def label_loss(step: Step) -> Tensor:
    return cross_entropy(step.student.outputs.logits, step.batch.y)


def fitnet(step: Step, task: Task) -> Tensor:
    s, t = step.student.outputs.stages[2], step.teacher_features.stages[2]
    regressor = task.regressor
    mapped = conv2d(s, regressor.conv.weight, regressor.conv.bias)
    return 100 * (plain.batch_norm(mapped, regressor.bn).clamp_min(0) - t).square().mean()


def attention(step: Step, task: Task) -> Tensor:
    pairs = zip(step.student.outputs.stages[1:], step.teacher_features.stages[1:], strict=True)
    maps = [(plain.attention_map(s), plain.attention_map(t)) for s, t in pairs]
    return 1000 * sum((s - t).square().mean() for s, t in maps)


def rkd(step: Step, task: Task) -> Tensor:
    distance, angle = plain.relational(step.student.outputs.pooled, step.teacher_features.pooled)
    return 25 * distance + 50 * angle


def overhaul(step: Step, task: Task, teacher: Features) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    norms = step.teacher.batchnorm_before_relu()[1:]
    stages = zip(step.student.outputs.preacts[1:], teacher.preacts[1:], norms, strict=True)
    for place, (s, t, norm) in enumerate(stages):
        convolution, own_norm = task.overhaul.stages[place].connector
        mapped = torch.einsum("ok,bkhw->bohw", convolution.weight[:, :, 0, 0], s)
        values = zip(norm.bias.tolist(), norm.weight.abs().tolist(), strict=True)
        margins = [plain.margin(mean, std) for mean, std in values]
        loss = plain.partial_l2(plain.batch_norm(mapped, own_norm), t, margins)
        total = total + loss / 2 ** (2 - place)
    return 1e-3 * total


def ofd(step: Step, task: Task) -> Tensor:
    """The teacher's BatchNorms use batch statistics, as in the released code."""
    with torch.no_grad():
        teacher = step.teacher.train().features(step.batch.x)
    step.teacher.eval()
    return overhaul(step, task, teacher)


def reviewkd(step: Step, task: Task) -> Tensor:
    """The loss in epoch 5 of a warm-up of 20 epochs."""
    student, teacher = step.student.outputs, step.teacher_features
    students = [*student.stages[1:], student.pooled[:, :, None, None]]
    teachers = [*teacher.preacts[1:], teacher.pooled[:, :, None, None]]
    return 0.25 * 5.0 * plain.review(task.review.fusions, students, teachers)


PLAIN: dict[str, Callable[[Step, Task], Tensor]] = {
    "fitnet": fitnet,
    "attention": attention,
    "rkd": rkd,
    "ofd": ofd,
    "reviewkd": reviewkd,
}


@pytest.mark.parametrize("method", PLAIN)
def test_loss_is_the_plain_one(step: Step, method: str) -> None:
    task = step.make_task(method)
    found = step.loss(task)
    expected = label_loss(step) + PLAIN[method](step, task)
    assert_same_loss(found, expected, *step.student.leaves(), task)


def test_ofd_with_the_teacher_in_eval_mode_is_one_parameter_away(step: Step) -> None:
    task = step.make_task("ofd", batch_statistics=False)
    found = step.loss(task)
    expected = label_loss(step) + overhaul(step, task, step.teacher_features)
    assert_same_loss(found, expected, *step.student.leaves(), task)
    released = step.loss(step.make_task("ofd"))
    assert not torch.allclose(found, released)


class PlainMemory:
    """CRD with memories as lists of vectors and sums as loops."""

    def __init__(self, task: CrdTask) -> None:
        memory = task.contrast.memory
        self.banks = [list(memory.student_NE.clone()), list(memory.teacher_NE.clone())]
        self.z = [0.0, 0.0]

    def loss(self, embeddings: list[Tensor], index: list[int], negatives: Tensor) -> Tensor:
        """Compare each network's embedding with the other's memory."""
        total = torch.zeros((), dtype=torch.float64)
        noise = negatives.shape[1] / TRAIN_SIZE
        self.fresh = list(self.z)
        for side in (0, 1):
            bank = self.banks[1 - side]
            rows = []
            for i, place in enumerate(index):
                places = [place, *negatives[i].tolist()]
                rows.append([(embeddings[side][i] @ bank[p] / 0.07).exp() for p in places])
            if self.z[side] == 0:
                scores = torch.stack([score for row in rows for score in row])
                self.fresh[side] = float(scores.detach().mean()) * TRAIN_SIZE
            for row in rows:
                first, *others = [score / self.fresh[side] for score in row]
                total = total - (first / (first + noise + 1e-7)).log() / len(index)
                for h in others:
                    total = total - (noise / (h + noise + 1e-7)).log() / len(index)
        return total

    def update(self, embeddings: list[Tensor], index: list[int]) -> None:
        self.z = self.fresh
        for bank, vectors in zip(self.banks, embeddings, strict=True):
            for i, place in enumerate(index):
                mixed = 0.5 * bank[place] + 0.5 * vectors[i].detach()
                bank[place] = mixed / mixed.norm()


def embedded(embedding: nn.Module, pooled: Tensor) -> Tensor:
    linear = pooled @ embedding.linear.weight.T + embedding.linear.bias
    return linear / (linear**2).sum(1, keepdim=True).sqrt()


def test_crd_is_a_loop_over_its_memory(step: Step) -> None:
    task = step.make_task("crd", **CRD)
    memory = PlainMemory(task)
    labels = torch.arange(TRAIN_SIZE) % 7
    for number in range(3):
        index = torch.randperm(TRAIN_SIZE)[:6]
        batch = Batch(x=step.batch.x, y=labels[index], index=index, epoch=1)
        torch.manual_seed(number)
        negatives = task.contrast.negatives(batch.y)
        assert not bool((labels[negatives] == batch.y[:, None]).any())
        pair = (
            (task.contrast.student, step.student.outputs.pooled),
            (task.contrast.teacher, step.teacher_features.pooled),
        )
        embeddings = [embedded(*side) for side in pair]
        ce = cross_entropy(step.student.outputs.logits, batch.y)
        expected = ce + 0.8 * memory.loss(embeddings, index.tolist(), negatives)
        torch.manual_seed(number)
        before = {name: value.clone() for name, value in task.state_dict().items()}
        output = task.loss(step.student, batch)
        assert_same_loss(output.loss, expected, *step.student.leaves(), task)
        assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
        task.observe(batch, output)
        memory.update(embeddings, index.tolist())
        stored = task.contrast.memory
        banks = (stored.student_NE, stored.teacher_NE)
        for found, vectors in zip(banks, memory.banks, strict=True):
            torch.testing.assert_close(found, torch.stack(vectors))
        torch.testing.assert_close(stored.normalizers, torch.tensor(memory.z, dtype=torch.float64))


def test_crd_goes_on_from_a_checkpoint(step: Step) -> None:
    trained, resumed = (step.make_task("crd", **CRD) for _ in range(2))
    trained.observe(step.batch, trained.loss(step.student, step.batch))
    resumed.load_state_dict(trained.state_dict())
    losses = []
    for task in (trained, resumed):
        torch.manual_seed(5)
        losses.append(task.loss(step.student, step.batch).loss)
    assert torch.equal(*losses)


def test_too_many_negatives_are_refused(step: Step) -> None:
    with pytest.raises(UserError, match="negatives of other classes"):
        step.make_task("crd", negatives=TRAIN_SIZE)


def test_a_hint_from_a_stage_that_is_not_there_is_refused(step: Step) -> None:
    with pytest.raises(UserError, match="hint_stage is 4, but a model has only stages 0 to 3"):
        step.make_task("fitnet", hint_stage=4)


@pytest.mark.parametrize(
    ("method", "advice"),
    [("fitnet", "choose another params.hint_stage"), ("ab", "choose another pair of networks")],
)
def test_sizes_that_no_convolution_maps_are_refused_with_what_the_method_can_change(
    step: Step, monkeypatch: pytest.MonkeyPatch, method: str, advice: str
) -> None:
    def shapes(task: FeatureTask, model: nn.Module) -> Features:
        side = 8 if model is task.teacher else 3
        maps = (torch.empty(1, 5, side, side),) * 4
        return Features(maps, maps, torch.empty(1, 5), torch.empty(1, 7))

    monkeypatch.setattr(FeatureTask, "shapes", shapes)
    with pytest.raises(UserError, match=rf"3x3 pixels to the teacher's 8x8: {advice}$"):
        step.make_task(method)


@pytest.mark.parametrize("method", FEATURE_METHODS)
def test_the_teacher_is_neither_trained_nor_stored_nor_moved(equal_step: Step, method: str) -> None:
    step = equal_step
    task = step.make_task(method, **(CRD if method == "crd" else {}))
    assert not task.needs_teacher_logits
    modules = {id(module) for module in step.teacher.modules()}
    assert not modules & {id(module) for module in task.modules()}
    before = {name: value.clone() for name, value in step.teacher.state_dict().items()}
    step.batch.teacher_output = None
    step.loss(task).backward()
    assert not step.teacher.training
    assert all(parameter.grad is None for parameter in step.teacher.parameters())
    for name, value in step.teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("method", FEATURE_METHODS)
def test_modules_of_their_own_are_the_same_for_the_same_seed(equal_step: Step, method: str) -> None:
    params = CRD if method == "crd" else {}
    first, second = (equal_step.make_task(method, **params).state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("method", FEATURE_METHODS)
@pytest.mark.parametrize("channels", [(12, 14, 16, 24), (4, 5, 6, 7, 8)])
def test_a_larger_or_a_deeper_student_is_taught_or_refused_in_a_sentence(
    method: str, channels: tuple[int, ...]
) -> None:
    """The student has more channels or more stages than its teacher."""
    step = make_step(channels)
    sentence = r"^[^\n]*student[^\n]*teacher[^\n]*: choose another pair or method$"
    refused = pytest.raises(UserError, match=sentence)
    with refused if method in {"fsp", "kdsvd"} else nullcontext():
        task = step.make_task(method, **(CRD if method == "crd" else {}))
        for step.batch.epoch in (1, 40):
            loss = step.loss(task)
            assert bool(loss.isfinite())
            loss.backward()


def test_networks_that_hide_their_features_are_refused(step: Step) -> None:
    task = step.make_task("attention")
    with pytest.raises(UserError, match="has no features"):
        task.loss(nn.Flatten(), step.batch)
