"""Feature methods against plain float64 transcriptions of their losses."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy.stats import truncnorm
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, conv2d, cross_entropy

from harness.errors import UserError
from harness.method import Batch, Task
from harness.models.features import Features
from methods.distillation.crd import CrdTask
from tests.methods.distillation.scene import TRAIN_SIZE, Leaves, Scene, assert_same

FEATURE_METHODS = ("fitnet", "attention", "rkd", "crd", "ofd", "reviewkd")
CRD = {"negatives": 9, "embedding_size": 5}


def labels_loss(scene: Scene) -> Tensor:
    return cross_entropy(scene.student.shown.logits, scene.batch.y)


def batch_norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    scale, shift = norm.weight.view(1, -1, 1, 1), norm.bias.view(1, -1, 1, 1)
    return (x - mean) / (var + norm.eps).sqrt() * scale + shift


def huber(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 1, x**2 / 2, x.abs() - 0.5).mean()


def fitnet(scene: Scene, task: Task) -> Tensor:
    s, t = scene.student.shown.stages[2], scene.goals.stages[2]
    regressor = task.regressor
    mapped = conv2d(s, regressor.conv.weight, regressor.conv.bias)
    return 100 * (batch_norm(mapped, regressor.bn).clamp_min(0) - t).square().mean()


def attention(scene: Scene, task: Task) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for s, t in zip(scene.student.shown.stages[1:], scene.goals.stages[1:], strict=True):
        maps = [(x**2).mean(1).flatten(1) for x in (s, t)]
        q = [x / (x**2).sum(1, keepdim=True).sqrt() for x in maps]
        total = total + ((q[0] - q[1]) ** 2).mean()
    return 1000 * total


def relations(points: Tensor) -> tuple[Tensor, Tensor]:
    n = len(points)
    distances = [
        [torch.zeros((), dtype=torch.float64) if i == j else (points[i] - points[j]).norm()]
        for i in range(n)
        for j in range(n)
    ]
    flat = torch.stack([d for (d,) in distances])
    flat = flat / (flat.sum() / (n * (n - 1)))
    angles = []
    for i in range(n):
        units = [
            torch.zeros_like(points[i])
            if i == j
            else (points[i] - points[j]) / (points[i] - points[j]).norm()
            for j in range(n)
        ]
        angles += [units[j] @ units[k] for j in range(n) for k in range(n)]
    return flat, torch.stack(angles)


def rkd(scene: Scene, task: Task) -> Tensor:
    d_s, a_s = relations(scene.student.shown.pooled)
    d_t, a_t = relations(scene.goals.pooled)
    return 25 * huber(d_s - d_t) + 50 * huber(a_s - a_t)


def margin(norm: nn.BatchNorm2d, channel: int) -> float:
    """E[x | x < 0] of a normal variable, by another package."""
    mean, std = float(norm.bias[channel]), abs(float(norm.weight[channel]))
    if 0.5 * math.erfc(mean / std / math.sqrt(2)) <= 1e-3:
        return -3 * std
    return float(truncnorm.mean(-math.inf, -mean / std, loc=mean, scale=std))


def overhaul(scene: Scene, task: Task, goals: Features) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    norms = scene.teacher.batchnorm_before_relu()[1:]
    for place, (s, t, norm) in enumerate(
        zip(scene.student.shown.preacts[1:], goals.preacts[1:], norms, strict=True)
    ):
        connector = task.overhaul.stages[place].connector
        mapped = torch.einsum("ok,bkhw->bohw", connector[0].weight[:, :, 0, 0], s)
        mapped = batch_norm(mapped, connector[1])
        for channel in range(t.shape[1]):
            m = margin(norm, channel)
            a, b = mapped[:, channel], t[:, channel]
            below = torch.where(b <= m, (a > m) * (a - m) ** 2, (a > b) * (a - b) ** 2)
            loss = torch.where(b > 0, (a - b) ** 2, below)
            total = total + loss.sum() / len(s) / 2 ** (2 - place)
    return 1e-3 * total


def ofd(scene: Scene, task: Task) -> Tensor:
    """The teacher normalises by the batch, as released."""
    with torch.no_grad():
        goals = scene.teacher.train().features(scene.batch.x)
    scene.teacher.eval()
    return overhaul(scene, task, goals)


def hcl(s: Tensor, t: Tensor) -> Tensor:
    weights, errors = [1.0], [(s - t).square().mean()]
    for level in (4, 2, 1):
        if level < s.shape[-1]:
            coarse = adaptive_avg_pool2d(s, level) - adaptive_avg_pool2d(t, level)
            weights.append(weights[-1] / 2)
            errors.append(coarse.square().mean())
    return sum(w * e for w, e in zip(weights, errors, strict=True)) / sum(weights)


def reviewkd(scene: Scene, task: Task) -> Tensor:
    shown, goals = scene.student.shown, scene.goals
    students = [*shown.stages[1:], shown.pooled[:, :, None, None]]
    teachers = [*goals.preacts[1:], goals.pooled[:, :, None, None]]
    total, above = torch.zeros((), dtype=torch.float64), None
    for fusion, s, t in reversed([*zip(task.review.fusions, students, teachers, strict=True)]):
        x = batch_norm(conv2d(s, fusion.reduce[0].weight), fusion.reduce[1])
        if above is not None:
            factor = x.shape[-1] // above.shape[-1]
            y = above.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
            both = torch.cat([x, y], 1)
            shares = conv2d(both, fusion.attend.weight, fusion.attend.bias).sigmoid()
            x = x * shares[:, :1] + y * shares[:, 1:]
        above = x
        out = batch_norm(conv2d(x, fusion.expand[0].weight, padding=1), fusion.expand[1])
        total = total + hcl(out, t)
    # Epoch 5 of 20 of the warm-up.
    return 0.25 * 5.0 * total


PLAIN: dict[str, Callable[[Scene, Task], Tensor]] = {
    "fitnet": fitnet,
    "attention": attention,
    "rkd": rkd,
    "ofd": ofd,
    "reviewkd": reviewkd,
}


@pytest.mark.parametrize("method", PLAIN)
def test_loss_is_the_plain_one(scene: Scene, method: str) -> None:
    task = scene.make_task(method)
    ours = task.loss(scene.student, scene.batch).loss
    expected = labels_loss(scene) + PLAIN[method](scene, task)
    assert_same(ours, expected, [*scene.student.leaves(), *task.parameters()])


def test_ofd_with_the_teacher_in_eval_mode_is_one_parameter_away(scene: Scene) -> None:
    task = scene.make_task("ofd", batch_statistics=False)
    ours = task.loss(scene.student, scene.batch).loss
    expected = labels_loss(scene) + overhaul(scene, task, scene.goals)
    assert_same(ours, expected, [*scene.student.leaves(), *task.parameters()])
    released = scene.make_task("ofd").loss(scene.student, scene.batch).loss
    assert not torch.allclose(ours, released)


class PlainMemory:
    """The memories as lists of vectors, all sums as loops."""

    def __init__(self, task: CrdTask) -> None:
        memory = task.contrast.memory
        self.banks = [list(memory.student_NE.clone()), list(memory.teacher_NE.clone())]
        self.z = [0.0, 0.0]

    def loss(self, embeddings: list[Tensor], index: list[int], negatives: Tensor) -> Tensor:
        """Each network's embedding against the other's memory."""
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


def test_crd_is_a_loop_over_its_memory(scene: Scene) -> None:
    task = scene.make_task("crd", **CRD)
    plain = PlainMemory(task)
    labels = torch.arange(TRAIN_SIZE) % 7
    for step in range(3):
        index = torch.randperm(TRAIN_SIZE)[:6]
        batch = Batch(x=scene.batch.x, y=labels[index], index=index, epoch=1)
        torch.manual_seed(step)
        negatives = task.contrast.negatives(batch.y)
        assert not bool((labels[negatives] == batch.y[:, None]).any())
        pair = (
            (task.contrast.student, scene.student.shown.pooled),
            (task.contrast.teacher, scene.goals.pooled),
        )
        embeddings = [embedded(*side) for side in pair]
        ce = cross_entropy(scene.student.shown.logits, batch.y)
        expected = ce + 0.8 * plain.loss(embeddings, index.tolist(), negatives)
        torch.manual_seed(step)
        before = {name: value.clone() for name, value in task.state_dict().items()}
        output = task.loss(scene.student, batch)
        assert_same(output.loss, expected, [*scene.student.leaves(), *task.parameters()])
        assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
        task.observe(batch, output)
        plain.update(embeddings, index.tolist())
        memory = task.contrast.memory
        banks = (memory.student_NE, memory.teacher_NE)
        for ours, theirs in zip(banks, plain.banks, strict=True):
            torch.testing.assert_close(ours, torch.stack(theirs))
        torch.testing.assert_close(memory.normalizers, torch.tensor(plain.z, dtype=torch.float64))


def test_crd_goes_on_from_a_checkpoint(scene: Scene) -> None:
    trained, resumed = (scene.make_task("crd", **CRD) for _ in range(2))
    trained.observe(scene.batch, trained.loss(scene.student, scene.batch))
    resumed.load_state_dict(trained.state_dict())
    losses = []
    for task in (trained, resumed):
        torch.manual_seed(5)
        losses.append(task.loss(scene.student, scene.batch).loss)
    assert torch.equal(*losses)


def test_too_many_negatives_are_refused(scene: Scene) -> None:
    with pytest.raises(UserError, match="negatives of other classes"):
        scene.make_task("crd", negatives=TRAIN_SIZE)


def test_a_hint_from_a_stage_that_is_not_there_is_refused(scene: Scene) -> None:
    with pytest.raises(UserError, match="hint_stage is 4, but a model has only stages 0 to 3"):
        scene.make_task("fitnet", hint_stage=4)


@pytest.mark.parametrize("method", FEATURE_METHODS)
def test_the_teacher_is_neither_trained_nor_stored_nor_moved(scene: Scene, method: str) -> None:
    task = scene.make_task(method, **(CRD if method == "crd" else {}))
    assert not task.needs_teacher_logits
    modules = {id(module) for module in scene.teacher.modules()}
    assert not modules & {id(module) for module in task.modules()}
    before = {name: value.clone() for name, value in scene.teacher.state_dict().items()}
    scene.batch.teacher_output = None
    task.loss(scene.student, scene.batch).loss.backward()
    assert not scene.teacher.training
    assert all(parameter.grad is None for parameter in scene.teacher.parameters())
    for name, value in scene.teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("method", FEATURE_METHODS)
def test_modules_of_their_own_are_the_same_for_the_same_seed(scene: Scene, method: str) -> None:
    params = CRD if method == "crd" else {}
    first, second = (scene.make_task(method, **params).state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_networks_that_hide_their_features_are_refused(scene: Scene) -> None:
    task = scene.make_task("attention")
    with pytest.raises(TypeError, match="has no features"):
        task.loss(nn.Flatten(), scene.batch)
    assert isinstance(scene.student, Leaves)
