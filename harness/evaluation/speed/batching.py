"""Split batches into the pieces that go through the network at once."""

from __future__ import annotations

from dataclasses import dataclass

# Matrix products of fewer rows use other kernels, whose last bits differ.
GRAIN = 16


@dataclass
class Batching:
    """Split a batch into pieces so that logits and gradients do not depend on the split.

    Matrix products compute each row in the same way from ``GRAIN`` rows on. So pieces start at
    multiples of ``grain``, and a shorter tail joins the previous piece or, if ``tile`` is set, is
    padded to a multiple of ``multiple``, which ``plan.smallest_multiple`` finds for a network. If
    ``graph_sizes`` is set, each piece is padded to one of these sizes instead.

    Attributes:
        limit: images whose activations are held at once, rounded up to a multiple of ``grain``;
            None is the whole batch.
        tile: images in one piece, None for as many as ``limit`` allows.
        multiple: if ``tile`` is set, pieces are padded to a multiple of this number.
        graph_sizes: ascending batch sizes for which the attacked network has recorded passes; see
            ``graphs``.
        grain: see above.
    """

    limit: int | None = None
    tile: int | None = None
    multiple: int = GRAIN
    graph_sizes: tuple[int, ...] = ()
    grain: int = GRAIN

    @property
    def usable_sizes(self) -> tuple[int, ...]:
        """The ``graph_sizes`` within the limit; if there are none, batches are split as usual."""
        return tuple(size for size in self.graph_sizes if size <= (self.limit or size))

    def pieces(self, count: int) -> list[tuple[int, int]]:
        """Start and stop of each piece of a batch of ``count`` images, ``count`` > 0."""
        sizes = self.usable_sizes
        size = sizes[-1] if sizes else self._rounded(min(self.tile or count, self.limit or count))
        if sizes or self.tile is not None:
            return [(start, min(start + size, count)) for start in range(0, count, size)]
        starts = list(range(0, count, size))
        if len(starts) > 1 and count - starts[-1] < self.grain:
            starts.pop()
        return list(zip(starts, [*starts[1:], count], strict=True))

    def padded(self, count: int) -> int:
        """Number of images that a piece of ``count`` is padded to."""
        if sizes := self.usable_sizes:
            return next(size for size in sizes if size >= count)
        if self.tile is None:
            return count
        multiple = min(self.multiple, self.grain)
        return -(-count // multiple) * multiple

    def graphs_kept(self, count: int) -> int:
        """How many pieces of a batch of ``count`` may keep their graphs for the backward pass."""
        if self.usable_sizes:
            return 1  # each replay overwrites the previous one's tensors
        pieces = self.pieces(count)
        if self.limit is None:
            return len(pieces)
        size = pieces[0][1] - pieces[0][0]
        return max(1, self._rounded(self.limit) // size)

    def halve(self, count: int) -> bool:
        """Halve the images of a batch of ``count`` held at once; False if it was one already."""
        held = min(self._rounded(self.limit or count), count)
        if held <= 1:
            return False
        half = held // 2
        if held > self.grain:
            half = max(self.grain, half // self.grain * self.grain)
        self.limit = half
        # Memory matters more than the last bit: below the grain, logits may differ by rounding.
        self.grain = min(self.grain, half)
        return True

    def _rounded(self, count: int) -> int:
        return -(-count // self.grain) * self.grain
