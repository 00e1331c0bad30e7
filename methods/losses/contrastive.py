"""Contrastive distillation: recognise the other model's embedding of the same image among many.

The student's embedding of an image is contrasted with the teacher's embeddings of the same and of
other images, which are kept in a memory; likewise the teacher's with those of the student.

Source: Tian et al., "Contrastive representation distillation", ICLR 2020, with the noise
contrastive estimation of its released code. Shape suffixes: B batch, N training images, K
negatives, E embedding, D pooled features, C classes, W a window of a random order.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from harness.errors import UserError
from methods.losses.precision import exact_matmul, float32_or_wider

EPSILON = 1e-7


class Embedding(nn.Module):
    """Linear map of the pooled features, normalised to unit length."""

    def __init__(self, in_features: int, features: int = 128) -> None:
        """Build the linear map from ``in_features`` to ``features`` dimensions."""
        super().__init__()
        self.linear = nn.Linear(in_features, features)

    def forward(self, pooled_BD: Tensor) -> Tensor:
        """Return embeddings [B, E] of length one, in float32 or wider."""
        return normalize(float32_or_wider(self.linear(pooled_BD)), dim=1)


class OtherClasses(nn.Module):
    """Draw training images of classes other than an image's own.

    Without replacement, each image's draw is uniform over all sets of K. The images of a batch
    share one random order, in which each starts at a random position, so the cost is O(N + B W),
    where W is K plus the size of the largest class.
    """

    order_N: Tensor
    starts_C: Tensor
    counts_C: Tensor

    def __init__(self, labels_N: Tensor, number: int, *, replacement: bool = False) -> None:
        """Sort the training images by class.

        Args:
            labels_N: classes of the training images, int64 >= 0; draws are on their device.
            number: K >= 1 images to draw.
            replacement: whether the K images drawn for an image may repeat.

        Raises:
            UserError: there are too few images of other classes.
        """
        super().__init__()
        counts_C = labels_N.bincount()
        # Read from the device once, here, rather than in each step.
        self.largest = int(counts_C.max())
        others = len(labels_N) - self.largest
        if others < (1 if replacement else number):
            raise UserError(
                f"{number} negatives of other classes are needed, but for the largest class there "
                f"are only {others} such images: use fewer, or draw with replacement"
            )
        self.number = number
        self.replacement = replacement
        self.register_buffer("order_N", labels_N.argsort(stable=True), persistent=False)
        self.register_buffer("counts_C", counts_C, persistent=False)
        self.register_buffer("starts_C", counts_C.cumsum(0) - counts_C, persistent=False)

    def forward(self, labels_B: Tensor) -> Tensor:
        """Return indices [B, K] of training images of classes other than ``labels_B`` [B]."""
        starts_B1 = self.starts_C[labels_B].unsqueeze(1)
        counts_B1 = self.counts_C[labels_B].unsqueeze(1)
        draw = self._repeated if self.replacement else self._distinct
        return self.order_N[draw(starts_B1, counts_B1)]

    # Both return positions in ``order_N``, in which each class is one block.

    def _repeated(self, starts_B1: Tensor, counts_B1: Tensor) -> Tensor:
        total, device = len(self.order_N), starts_B1.device
        # The modulo bias is below one part in 2^62 / N.
        draws_BK = torch.randint(2**62, (len(starts_B1), self.number), device=device)
        return (starts_B1 + counts_B1 + draws_BK % (total - counts_B1)) % total

    def _distinct(self, starts_B1: Tensor, counts_B1: Tensor) -> Tensor:
        total, device = len(self.order_N), starts_B1.device
        # This many positions of a random order include at least K outside any one class.
        window = torch.randperm(total, device=device)[: self.number + self.largest]
        places_BW = (window + torch.randint(total, starts_B1.shape, device=device)) % total
        other_BW = (places_BW - starts_B1) % total >= counts_B1
        # The first K of other classes go to columns 0 to K - 1, all the rest to column K.
        column_BW = (other_BW.cumsum(1) - 1).clamp_max(self.number).where(other_BW, self.number)
        chosen = places_BW.new_empty(len(places_BW), self.number + 1)
        return chosen.scatter_(1, column_BW, places_BW)[:, : self.number]


def contrast_loss(positive_B: Tensor, negatives_BK: Tensor, train_size: int) -> Tensor:
    """Noise contrastive estimation with noise that is uniform over the training images.

    -mean_B [log h+ / (h+ + K/N + eps) + sum_k log (K/N) / (h- + K/N + eps)], eps = 1e-7.

    Args:
        positive_B: normalised scores h+ >= 0 of the image itself, [B].
        negatives_BK: normalised scores h- >= 0 of other images, [B, K].
        train_size: number N of training images.

    Returns:
        A scalar.
    """
    noise = negatives_BK.shape[1] / train_size
    kept_B = positive_B.log() - (positive_B + (noise + EPSILON)).log()
    rejected_B = (math.log(noise) - (negatives_BK + (noise + EPSILON)).log()).sum(1)
    return -(kept_B + rejected_B).mean()


class Contrast(NamedTuple):
    """Result of a contrastive step; all but the loss is detached and meant for ``update``.

    Attributes:
        loss: the student's and the teacher's contrast, a scalar.
        student: embeddings [B, E].
        teacher: embeddings [B, E].
        normalizers: the constants Z [2] of the student's and of the teacher's scores.
    """

    loss: Tensor
    student: Tensor
    teacher: Tensor
    normalizers: Tensor


class ContrastMemory(nn.Module):
    """An embedding of every training image by the student and by the teacher.

    A score is exp(v . m / temperature) / Z between one model's embedding v and the other's memory
    m. Z is fixed by the first batch that ``update`` sees: N times its mean unnormalised score.
    Memories and Z are buffers, so they are part of every checkpoint.
    """

    student_NE: Tensor
    teacher_NE: Tensor
    normalizers: Tensor

    def __init__(
        self,
        train_size: int,
        features: int = 128,
        *,
        temperature: float = 0.07,
        momentum: float = 0.5,
        device: torch.device | None = None,
    ) -> None:
        """Fill the memories at random, with a mean square length of one.

        Args:
            train_size: number N of training images.
            features: length E of the embeddings.
            temperature: > 0.
            momentum: weight in [0, 1) of an image's old memory in its new one.
            device: device of the buffers.
        """
        super().__init__()
        self.temperature = temperature
        self.momentum = momentum
        bound = math.sqrt(3 / features)
        for name in ("student_NE", "teacher_NE"):
            memory = torch.empty(train_size, features, device=device).uniform_(-bound, bound)
            self.register_buffer(name, memory)
        self.register_buffer("normalizers", torch.zeros(2, device=device))

    def forward(
        self, student_BE: Tensor, teacher_BE: Tensor, index_B: Tensor, negatives_BK: Tensor
    ) -> Contrast:
        """Contrast a batch with the memories, without changing them.

        Args:
            student_BE: the student's embeddings, [B, E] of length one.
            teacher_BE: the teacher's; gradients flow into both.
            index_B: indices of the images in the training set, int64 in [0, N).
            negatives_BK: indices of other images, [B, K].
        """
        places = torch.cat([index_B.unsqueeze(1), negatives_BK], dim=1)
        pairs = ((student_BE, self.teacher_NE), (teacher_BE, self.student_NE))
        losses, normalizers = [], []
        for i, (embedding_BE, memory_NE) in enumerate(pairs):
            scores = self._scores(embedding_BE, memory_NE, places)
            first = scores.detach().mean() * len(memory_NE)
            normalizers.append(torch.where(self.normalizers[i] > 0, self.normalizers[i], first))
            scores = scores / normalizers[i]
            losses.append(contrast_loss(scores[:, 0], scores[:, 1:], len(memory_NE)))
        return Contrast(
            losses[0] + losses[1],
            student_BE.detach(),
            teacher_BE.detach(),
            torch.stack(normalizers),
        )

    def _scores(self, embedding_BE: Tensor, memory_NE: Tensor, places: Tensor) -> Tensor:
        # One product with the whole memory is faster than gathering B x K of its rows.
        products_BN = exact_matmul(embedding_BE, memory_NE.to(embedding_BE.dtype).T)
        return (products_BN.gather(1, places) / self.temperature).exp()

    @torch.no_grad()
    def update(self, index_B: Tensor, contrast: Contrast) -> None:
        """Move the images' memories towards their embeddings; the first time, also fix Z.

        Args:
            index_B: indices of the images in the training set, each at most once.
            contrast: what ``forward`` returned for them.
        """
        self.normalizers.copy_(contrast.normalizers)
        pairs = ((self.student_NE, contrast.student), (self.teacher_NE, contrast.teacher))
        for memory_NE, embedding_BE in pairs:
            old_BE, new_BE = memory_NE[index_B], embedding_BE.to(memory_NE.dtype)
            mixed_BE = self.momentum * old_BE + (1 - self.momentum) * new_BE
            memory_NE.index_copy_(0, index_B, normalize(mixed_BE, dim=1))


class ContrastiveDistillation(nn.Module):
    """Contrastive distillation with its embeddings, negatives and memory."""

    def __init__(
        self,
        student_features: int,
        teacher_features: int,
        labels_N: Tensor,
        *,
        negatives: int = 16384,
        replacement: bool = False,
        features: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        """Build on the device of ``labels_N``.

        Args:
            student_features: length of the student's pooled features.
            teacher_features: length of the teacher's.
            labels_N: classes of the training images, in the order of ``Batch.index``.
            negatives: number K of other images, see ``OtherClasses``.
            replacement: see ``OtherClasses``.
            features: length E of the embeddings.
            temperature: see ``ContrastMemory``.
            momentum: see ``ContrastMemory``.
        """
        super().__init__()
        device = labels_N.device
        self.negatives = OtherClasses(labels_N, negatives, replacement=replacement)
        self.student = Embedding(student_features, features).to(device)
        self.teacher = Embedding(teacher_features, features).to(device)
        self.memory = ContrastMemory(
            len(labels_N), features, temperature=temperature, momentum=momentum, device=device
        )

    def forward(
        self, student_BD: Tensor, teacher_BD: Tensor, index_B: Tensor, labels_B: Tensor
    ) -> Contrast:
        """Contrast the pooled features [B, D] of a batch; see ``ContrastMemory``."""
        student_BE = self.student(student_BD)
        teacher_BE = self.teacher(teacher_BD.detach())
        contrast: Contrast = self.memory(student_BE, teacher_BE, index_B, self.negatives(labels_B))
        return contrast

    def update(self, index_B: Tensor, contrast: Contrast) -> None:
        """See ``ContrastMemory.update``; call it once per optimiser step."""
        self.memory.update(index_B, contrast)
