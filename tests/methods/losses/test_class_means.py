"""Class means against a plain loop."""

import torch

from methods.losses.class_means import ClassMeans

CLASSES, TEMPERATURE = 5, 4.0


def epoch_of_batches(seed: int, classes: range) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for size in (16, 16, 5):
        logits = 5 * torch.randn(size, CLASSES, generator=generator)
        labels = torch.randint(classes.start, classes.stop, (size,), generator=generator)
        batches.append((logits, labels))
    return batches


def plain_means(
    batches: list[tuple[torch.Tensor, torch.Tensor]], old: torch.Tensor
) -> torch.Tensor:
    means = old.clone()
    for label in range(CLASSES):
        rows = [
            torch.softmax(one_logits.double() / TEMPERATURE, -1)
            for logits, labels in batches
            for one_logits, one_label in zip(logits, labels, strict=True)
            if int(one_label) == label
        ]
        if rows:
            means[label] = torch.stack(rows).mean(0)
    return means


def test_two_epochs_against_a_loop() -> None:
    means = ClassMeans(CLASSES, temperature=TEMPERATURE)
    uniform = torch.full((CLASSES, CLASSES), 1 / CLASSES)
    expected = uniform.double()
    # The second epoch has no sample of the last class, which keeps its row from the first.
    for seed, classes in ((1, range(0, CLASSES)), (2, range(0, CLASSES - 1))):
        in_force = means.matrix_CC.clone()
        batches = epoch_of_batches(seed, classes)
        for logits, labels in batches:
            means.update(logits, labels)
            assert torch.equal(means.matrix_CC, in_force), "W changed inside the epoch"
        means.end_epoch()
        expected = plain_means(batches, expected)
        torch.testing.assert_close(means.matrix_CC.double(), expected, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(means.matrix_CC.sum(1), torch.ones(CLASSES))
        assert not means.sums_CC.any()


def test_rows_are_chosen_by_label() -> None:
    means = ClassMeans(CLASSES)
    assert torch.equal(means.matrix_CC, torch.full((CLASSES, CLASSES), 1 / CLASSES))
    means.matrix_CC.copy_(torch.arange(25.0).view(5, 5))
    labels = torch.tensor([3, 0, 3])
    assert torch.equal(means.of(labels), means.matrix_CC[[3, 0, 3]])


def test_momentum_mixes_with_the_old_means() -> None:
    mixed, fresh = ClassMeans(CLASSES, momentum=0.25), ClassMeans(CLASSES)
    for logits, labels in epoch_of_batches(1, range(CLASSES)):
        mixed.update(logits, labels)
        fresh.update(logits, labels)
    mixed.end_epoch()
    fresh.end_epoch()
    torch.testing.assert_close(mixed.matrix_CC, 0.25 * fresh.matrix_CC + 0.75 / CLASSES)


def test_a_checkpoint_in_the_middle_of_an_epoch_loses_nothing() -> None:
    first, second = ClassMeans(CLASSES), ClassMeans(CLASSES)
    batches = epoch_of_batches(1, range(CLASSES))
    first.update(*batches[0])
    second.load_state_dict(first.state_dict())
    for means in (first, second):
        means.update(*batches[1])
        means.end_epoch()
    assert torch.equal(first.matrix_CC, second.matrix_CC)


def test_half_precision_logits_are_gathered_in_float32() -> None:
    means = ClassMeans(CLASSES)
    logits, labels = epoch_of_batches(1, range(CLASSES))[0]
    means.update(logits.bfloat16(), labels)
    assert means.sums_CC.dtype == torch.float32
    torch.testing.assert_close(means.sums_CC.sum(), torch.tensor(float(len(labels))))
