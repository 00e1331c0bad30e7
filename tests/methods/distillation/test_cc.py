"""CC against a loop over neighbours in the batch."""

from itertools import pairwise

from torch.nn.functional import cross_entropy

from tests.methods.conftest import assert_same_loss
from tests.methods.distillation.conftest import Step


def test_loss_is_the_plain_one(step: Step) -> None:
    """Both embeddings are trained."""
    student, teacher = step.student.outputs, step.teacher_features
    task = step.make_task("cc", label_weight=0.5, correlation_weight=0.3, embedding_size=9)
    deviations = []
    for f_s, f_t in zip(student.pooled, teacher.pooled, strict=True):
        embedded_s = task.embed_student.weight @ f_s + task.embed_student.bias
        embedded_t = task.embed_teacher.weight @ f_t + task.embed_teacher.bias
        deviations.append((embedded_s - embedded_t).abs())
    products = [
        sum(a * b for a, b in zip(one, other, strict=True)) for one, other in pairwise(deviations)
    ]
    expected = 0.5 * cross_entropy(student.logits, step.batch.y) + 0.3 * sum(products) / 5
    assert_same_loss(step.loss(task), expected, *step.student.leaves(), task)


def test_released_settings(step: Step) -> None:
    params = step.make_task("cc").params
    assert (params.label_weight, params.correlation_weight, params.embedding_size) == (1, 0.02, 128)


def test_neighbours_need_two_images(step: Step) -> None:
    assert step.make_task("cc").least_batch == 2
