"""Settings that training refuses before its first step, with a one-sentence error."""

from pathlib import Path
from typing import Any

import pytest
import torch
from distilling import TINY, Lines, trained, write_generated
from torch.nn.functional import cross_entropy

from harness.errors import UserError
from harness.experiment.resolve import resolve
from harness.experiment.runner import run
from harness.method import Batch, Forward, Method, MethodCard, Params, StepOutput, Task
from harness.registry import METHODS

AVERAGING = {"training.averaging.kind": "epoch", "training.averaging.start_epoch": 3}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The settings that name a finished teacher."""
    done = trained(tmp_path_factory.mktemp("teacher"), "vanilla", **{"training.epochs": 1})
    source = str(done.model_path)
    return {"teacher.arch": "resnet8", "teacher.source": source, "teacher.minimum": 0.0}


def refused(results: Path, method: str, match: str, **options: Any) -> None:
    """Assert that a run is refused before its first training step."""
    lines = Lines()
    with pytest.raises(UserError, match=match):
        trained(results, method, lines, **options)
    assert not lines.about("epoch 1/")


def test_a_last_batch_of_one_image_is_refused_where_numbers_are_normalised(tmp_path, teacher):
    options = {**teacher, "data.train_limit": 97, "training.epochs": 1}
    match = r"reviewkd needs 2 images .* has 1: set training.drop_last=true or another"
    refused(tmp_path, "reviewkd", match, **options)
    assert trained(tmp_path, "reviewkd", **options, **{"training.drop_last": True}).epochs()
    assert trained(tmp_path, "reviewkd", **options, **{"training.batch_size": 33}).epochs()
    assert trained(tmp_path, "kd", **options).epochs()


# Their last feature map on digits is 1 x 1, so one image gives one value per channel.
ONE_PIXEL = ("vgg8", "mobilenet-v2", "shufflenet-v1", "shufflenet-v2", "preact-resnet18")


@pytest.mark.parametrize("arch", ONE_PIXEL)
@pytest.mark.parametrize(("limit", "batch_size", "replicas"), [(17, 16, 1), (21, 16, 4)])
def test_a_part_of_one_image_is_refused_where_batchnorm_needs_more(
    tmp_path, arch, limit, batch_size, replicas
):
    options = {
        "model.arch": arch,
        "data.train_limit": limit,
        "training.batch_size": batch_size,
        "training.batchnorm_replicas": replicas,
        "training.epochs": 1,
    }
    match = r"the last batch .* one image to a BatchNorm of \w+, .* set training.drop_last=true"
    refused(tmp_path, "vanilla", match, **options)
    assert trained(tmp_path, "vanilla", **options | {"model.arch": "resnet8"}).epochs()


def test_a_tasks_own_network_is_checked_too(tmp_path):
    options = {"data.train_limit": 17, "training.batch_size": 16, "training.epochs": 1}
    refused(
        tmp_path,
        "lbgat",
        r"one image to a BatchNorm of VGG",
        **options,
        **{"params.natural_arch": "vgg8"},
    )


def test_a_memory_of_training_images_refuses_generated_ones(tmp_path, teacher):
    options = {
        **teacher,
        "training.epochs": 1,
        "data.generated": write_generated(tmp_path / "generated.npz"),
        "data.generated_name": "random",
        "data.generated_fraction": 0.5,
    }
    refused(tmp_path / "r", "crd", r"crd keeps state .* set data.generated_fraction=0", **options)
    assert trained(tmp_path / "r", "kd", **options).epochs()


def test_a_memory_of_training_images_refuses_mixed_ones(tmp_path, teacher):
    options = {**teacher, "training.epochs": 1, "data.cutmix": 1.0}
    refused(tmp_path, "crd", r"crd keeps state .* CutMix would mix .* set data.cutmix=0", **options)
    assert trained(tmp_path, "kd", **options).epochs()


@pytest.mark.parametrize("method", ["trades", "proxy", "las-at"])
def test_a_method_that_attacks_needs_an_attack(tmp_path, method):
    match = rf"{method} trains on adversarial images, but training.attack is null: leave"
    config = resolve(
        method,
        options={**TINY, "results": tmp_path},
        assignments=["training.attack=null"],
    )
    with pytest.raises(UserError, match=match):
        run(config, Lines())


def test_an_average_that_never_begins_is_refused(tmp_path):
    match = r"averaging begins with epoch 3 of 2, .* lower training.averaging.start_epoch"
    refused(tmp_path, "vanilla", match, **AVERAGING)
    assert trained(tmp_path, "vanilla", **AVERAGING, **{"training.epochs": 3}).epochs()


def test_a_recipe_of_fewer_epochs_still_averages(tmp_path):
    done = trained(tmp_path, "acat", **{"training.epochs": 12, "data.train_limit": 32})
    kept = torch.load(done.checkpoint_path, weights_only=True)
    # One step per epoch, from epoch 10 on.
    assert int(kept["average"]["n_averaged"]) == 3
    result = torch.load(done.model_path, weights_only=True)["state_dict"]
    assert not all(torch.equal(tensor, kept["model"][name]) for name, tensor in result.items())


def test_a_weight_perturbation_that_never_begins_is_reported(tmp_path):
    lines = Lines()
    trained(tmp_path, "ikl", lines, **{"data.train_limit": 32})
    (line,) = lines.about("weight_perturbation")
    assert (
        line == "training.weight_perturbation would begin with epoch 5 of 2: no weight is perturbed"
    )
    begun = {"training.weight_perturbation.start_epoch": 2, "data.train_limit": 32}
    lines = Lines()
    trained(tmp_path, "ikl", lines, **begun)
    assert not lines.about("weight_perturbation")


class VectorTask(Task):
    """Forgets to average over the images."""

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        return StepOutput(cross_entropy(model(batch.x), batch.y, reduction="none"), {})


class NanTask(Task):
    """Divides by zero from the first step on."""

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        return StepOutput(cross_entropy(model(batch.x), batch.y) * float("nan"), {})


CARD = MethodCard("Faulty", "natural", "-", "-", "-")
VECTOR = Method(CARD, Params, VectorTask, {"digits": dict})
NAN = Method(CARD, Params, NanTask, {"digits": dict})


@pytest.mark.parametrize(
    ("faulty", "match"),
    [
        ("vector", r"VectorTask.loss returned a loss of shape \[32\], but it must be a scalar"),
        ("nan", "not finite at the first step, before any update: check the formula"),
    ],
)
def test_a_faulty_loss_is_named(tmp_path, faulty, match):
    with METHODS.temporarily(faulty, f"{__name__}:{faulty.upper()}"):
        refused(tmp_path, faulty, match)
