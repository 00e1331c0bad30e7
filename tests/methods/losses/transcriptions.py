"""Plain float64 transcriptions of the losses, as loops, sums over pairs and case distinctions."""

import math
from collections.abc import Sequence

import torch
from scipy.stats import truncnorm
from torch import Tensor, nn
from torch.nn.functional import conv2d


def pairwise_mse(m: Tensor, n: Tensor, weights: Tensor) -> Tensor:
    """1/4 sum_jk w_j w_k ((m_j - m_k) - (n_j - n_k))^2 of each sample, over all pairs."""
    delta = (m.unsqueeze(2) - m.unsqueeze(1)) - (n.unsqueeze(2) - n.unsqueeze(1))
    return (delta.square() * weights.unsqueeze(2) * weights.unsqueeze(1)).sum((1, 2)) / 4


def attention_map(maps: Tensor) -> Tensor:
    """The sum of squares over channels, scaled to length one, image by image."""
    rows = []
    for image in maps:
        activity = sum(channel**2 for channel in image).flatten()
        rows.append(activity / activity.square().sum().sqrt())
    return torch.stack(rows)


def huber(x: Tensor) -> Tensor:
    return 0.5 * x**2 if x.detach().abs() < 1 else x.abs() - 0.5


def relational(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The distance and the angle loss, as loops over pairs and triples of points."""
    number = range(len(student))
    pairs = [(i, j) for i in number for j in number if i != j]

    def length(points: Tensor, i: int, j: int) -> Tensor:
        return (points[i] - points[j]).square().sum().sqrt()

    def distances(points: Tensor) -> list[Tensor]:
        lengths = [length(points, *pair) for pair in pairs]
        return [each / (sum(lengths) / len(pairs)) for each in lengths]

    def cosine(points: Tensor, i: int, j: int, k: int) -> Tensor:
        """The cosine of the angle at i between j and k; zero if j or k is i."""
        if i in (j, k):
            return torch.zeros((), dtype=torch.float64)
        product = (points[j] - points[i]) @ (points[k] - points[i])
        return product / (length(points, i, j) * length(points, i, k))

    compared = zip(distances(student), distances(teacher), strict=True)
    triples = [(i, j, k) for i in number for j in number for k in number]
    return (
        sum(huber(s - t) for s, t in compared) / len(student) ** 2,
        sum(huber(cosine(student, *t) - cosine(teacher, *t)) for t in triples) / len(student) ** 3,
    )


def batch_norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """BatchNorm with batch statistics."""
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    scale, shift = norm.weight.view(1, -1, 1, 1), norm.bias.view(1, -1, 1, 1)
    return (x - mean) / (var + norm.eps).sqrt() * scale + shift


def margin(mean: float, std: float) -> float:
    """E[x | x < 0] of a normal variable from SciPy, or -3 std if x < 0 is rare."""
    if 0.5 * math.erfc(mean / std / math.sqrt(2)) <= 1e-3:
        return -3 * std
    return float(truncnorm.mean(-math.inf, -mean / std, loc=mean, scale=std))


def partial_l2(student: Tensor, teacher: Tensor, margins: Sequence[float]) -> Tensor:
    """The partial L2 loss, one value at a time."""
    total, teacher = torch.zeros((), dtype=torch.float64), teacher.detach()
    for b, k, h, w in torch.cartesian_prod(*(torch.arange(n) for n in student.shape)).tolist():
        s, t, m = student[b, k, h, w], float(teacher[b, k, h, w]), margins[k]
        if t <= m:
            term = (s - m) ** 2 if s > m else 0 * s
        elif t <= 0:
            term = (s - t) ** 2 if s > t else 0 * s
        else:
            term = (s - t) ** 2
        total = total + term
    return total / len(student)


def grid_mean(x: Tensor, level: int) -> Tensor:
    """The mean of each cell of a ``level`` x ``level`` grid; cells overlap if sizes are uneven."""
    side = x.shape[-1]
    edges = [(i * side // level, math.ceil((i + 1) * side / level)) for i in range(level)]
    cells = [x[..., a:b, c:d].mean((-2, -1)) for a, b in edges for c, d in edges]
    return torch.stack(cells, dim=-1)


def hcl(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The hierarchical context loss of ReviewKD, without gradient for the teacher."""
    total = torch.zeros((), dtype=torch.float64)
    for s, t in zip(student, (each.detach() for each in teacher), strict=True):
        weights, errors = [1.0], [(s - t).square().mean()]
        for level in (4, 2, 1):
            if level < s.shape[-1]:
                weights.append(weights[-1] / 2)
                errors.append((grid_mean(s, level) - grid_mean(t, level)).square().mean())
        total = total + sum(w * e for w, e in zip(weights, errors, strict=True)) / sum(weights)
    return total


def nearest(x: Tensor, side: int) -> Tensor:
    places = [i * x.shape[-1] // side for i in range(side)]
    return x[..., places, :][..., places]


def review(fusions: nn.ModuleList, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The loss of ReviewKD, with its fusions in training mode from the deepest map on."""
    outputs, above = [], None
    for fusion, s, t in reversed([*zip(fusions, student, teacher, strict=True)]):
        x = batch_norm(conv2d(s, fusion.reduce[0].weight), fusion.reduce[1])
        if above is not None:
            y = nearest(above, x.shape[-1])
            both = torch.cat([x, y], dim=1)
            logits = torch.einsum("ok,bkhw->bohw", fusion.attend.weight[:, :, 0, 0], both)
            shares = 1 / (1 + (-(logits + fusion.attend.bias.view(1, 2, 1, 1))).exp())
            x = x * shares[:, :1] + y * shares[:, 1:]
        above = nearest(x, t.shape[-1])
        out = conv2d(above, fusion.expand[0].weight, padding=1)
        outputs.insert(0, batch_norm(out, fusion.expand[1]))
    return hcl(outputs, teacher)
