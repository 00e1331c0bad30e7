"""Networks of RobustBench, timm and torchvision, without the network."""

import socket
from collections import Counter
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
from distilling import Lines
from PIL import Image

from harness.compat import import_robustbench, import_timm, import_torchvision
from harness.config import EvalConfig
from harness.data import Dataset, dataset_info, imagenet
from harness.data.base import Preparation
from harness.data.imagenet import central_crop
from harness.errors import UserError
from harness.experiment.external import evaluate_external
from harness.models import zoos
from harness.models.checkpoint import state_dict_sha256
from harness.models.loading import load_external
from harness.store.files import file_sha256
from harness.store.rundir import RunDirectory

pytest.importorskip("gdown", reason="RobustBench is not installed")

CIFAR = SimpleNamespace(
    name="cifar10",
    part_of=None,
    num_classes=10,
    channels=3,
    image_size=32,
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
)
X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
IMAGENET_MEAN = torch.tensor((0.485, 0.456, 0.406))


@pytest.fixture(scope="module")
def rice(tmp_path_factory):
    """A file of weights for RobustBench's small entry Rice2020Overfitting (L2), and its logits."""
    import_robustbench()
    from robustbench.model_zoo.cifar10 import Rice2020OverfittingNetL2

    torch.manual_seed(0)
    network = Rice2020OverfittingNetL2().eval()
    path = tmp_path_factory.mktemp("zoo") / "rice.pt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, path)
    with torch.no_grad():
        return path, network(X)


def test_robustbench_entry_from_a_local_file(rice):
    path, expected = rice
    model, facts = load_external(
        "robustbench:Rice2020Overfitting", dataset_info=CIFAR, threat="L2", weights=path
    )
    with torch.no_grad():
        torch.testing.assert_close(model(X), expected, rtol=0, atol=0)
    assert not model.training
    assert facts["sha256"] == file_sha256(path)
    assert facts["model_name"] == "Rice2020Overfitting"
    assert facts["arch"] == "Rice2020OverfittingNetL2"
    linf, linf_facts = load_external(
        "robustbench:L2/Rice2020Overfitting", dataset_info=CIFAR, threat="Linf", weights=path
    )
    with torch.no_grad():
        torch.testing.assert_close(linf(X), expected, rtol=0, atol=0)
    assert linf_facts["model_name"] == "Rice2020Overfitting"


def test_robustbench_download_is_kept_and_only_if_it_can_be_read(rice, tmp_path, monkeypatch):
    path, expected = rice
    contents = iter([b"<html>confirm</html>", path.read_bytes()])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(
        import_robustbench().utils,
        "download_gdrive_new",
        lambda file_id, name: open(name, "wb").write(next(contents)),
    )

    def load():
        return load_external("robustbench:Rice2020Overfitting", dataset_info=CIFAR, threat="L2")

    with pytest.raises(UserError, match="is a web page"):
        load()
    for _ in range(2):  # downloaded, then found
        torch.testing.assert_close(load()[0](X).detach(), expected, rtol=0, atol=0)
    assert [file.name for file in tmp_path.rglob("*.*")] == ["Rice2020Overfitting.pt"]


def built_without_network(row):
    """The network of a listed entry, without memory for weights where that can be."""
    timm = import_timm()
    name = row["model"].rpartition("/")[2]
    entry = zoos.robustbench_entry(name, row["dataset"], row["threat"])
    registered = f"{name}_{row['dataset']}_{row['threat']}".lower().replace("-", "_")
    # As RobustBench chooses.
    make = partial(timm.create_model, registered) if timm.is_model(registered) else entry["model"]
    try:
        with torch.device("meta"):
            return make()
    except RuntimeError as error:
        if "meta tensor" not in str(error):
            raise
        return make()  # its constructor computes with values


# RobustBench offers no other way to build these: their constructors fetch weights by themselves,
FETCHING = {"robustbench:Linf/Standard_R50", "robustbench:corruptions/Standard_R50"}
# or put a part of themselves on a GPU.
ON_GPU = {"robustbench:Linf/Bai2023Improving_edm", "robustbench:Linf/Bai2023Improving_trades"}


def test_every_robustbench_entry_is_listed_with_what_it_needs():
    rows = zoos.robustbench_models()
    counted = Counter(row["dataset"] for row in rows)
    assert counted == {"cifar10": 114, "cifar100": 50, "imagenet": 42}
    assert len({(row["model"], row["dataset"]) for row in rows}) == len(rows)
    kinds = Counter(row["weights"].split()[0] for row in rows)
    assert kinds == {"--weights": 181, "3": 4, "2": 3, "6": 4, "published": 14}
    for row in rows:
        name = row["model"].rpartition("/")[2]
        assert callable(zoos.robustbench_entry(name, row["dataset"], row["threat"])["model"])


@pytest.mark.slow
def test_every_robustbench_entry_is_built_without_network(monkeypatch):
    def offline(*_, **__):
        raise URLError("offline")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setattr(socket.socket, "connect", offline)
    fetching, on_gpu = set(), set()
    for row in zoos.robustbench_models():
        try:
            assert isinstance(built_without_network(row), torch.nn.Module), row
        except URLError:
            fetching.add(row["model"])
        except AssertionError as error:
            if "not compiled with CUDA" not in str(error):
                raise
            on_gpu.add(row["model"])
    expected = set() if torch.cuda.is_available() else ON_GPU
    assert (fetching, on_gpu) == (FETCHING, expected)


@pytest.mark.parametrize(
    ("name", "dataset", "threat", "message"),
    [
        ("Rice2020Overfiting", "cifar10", "Linf", "did you mean Rice2020Overfitting"),
        ("Rice2020Overfitting", "digits", "Linf", "no models for digits Linf: it has cifar10 Linf"),
        ("Rice2020Overfitting", "cifar100", "L2", "no models for cifar100 L2"),
        ("Rice2020Overfitting", "cifar10", "L9", "no models for cifar10 L9"),
        ("L9/Rice2020Overfitting", "cifar10", "L2", "no models for cifar10 L9"),
        ("Hendrycks2020AugMix_ResNeXt", "cifar10", "L2", "write robustbench:corruptions/Hendrycks"),
    ],
)
def test_robustbench_names_that_are_not(name, dataset, threat, message):
    info = SimpleNamespace(**{**vars(CIFAR), "name": dataset})
    with pytest.raises(UserError, match=message):
        load_external(f"robustbench:{name}", dataset_info=info, threat=threat)


IMAGENET = dataset_info("imagenet")


def picture(seed: int = 0) -> Image.Image:
    pixels = torch.randint(0, 256, (300, 400, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def prepared(preparation: Preparation | None) -> torch.Tensor:
    usual = Preparation(224, 256)
    return central_crop(preparation or usual)(picture()).float() / 255


def test_robustbenchs_images_are_prepared_as_it_does():
    """By its own transforms, for every entry on ImageNet."""
    import_robustbench()
    from robustbench.data import get_preprocessing
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

    found = set()
    for threat in ("Linf", "corruptions"):
        for name in zoos.robustbench_tables()["imagenet", threat]:
            preparation = zoos.robustbench_preparation(name, IMAGENET, threat)
            if preparation not in found:
                dataset = BenchmarkDataset.imagenet
                theirs = get_preprocessing(dataset, ThreatModel(threat), name, None)
                assert torch.equal(prepared(preparation), theirs(picture())), name
            found.add(preparation)
    assert {(each.size, each.resize, each.interpolation) for each in found} >= {
        (224, 256, "bilinear"), (224, 256, "bicubic"), (288, None, "bilinear"),
        (224, 224, "bilinear"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["test_byobnet", "resnet50.a1_in1k", "swin_base_patch4_window12_384"]
)
def test_timms_images_are_prepared_as_it_does(name):
    timm = import_timm()
    published = timm.get_pretrained_cfg(name).to_dict()
    config = timm.data.resolve_data_config({}, pretrained_cfg=published)
    theirs = timm.data.create_transform(**config)
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    ours = (prepared(zoos.preparation_of(theirs, name)) - mean) / std
    torch.testing.assert_close(ours, theirs(picture()))


def test_other_steps_of_a_preparation_are_refused():
    v2 = import_torchvision("torchvision.transforms")
    steps = v2.Compose([v2.Resize(256), v2.FiveCrop(224)])
    with pytest.raises(UserError, match="timm:x prepares its images by FiveCrop, which is not"):
        zoos.preparation_of(steps, "timm:x")


def test_a_network_is_evaluated_on_images_prepared_for_it(tmp_path, monkeypatch):
    """Clean predictions against timm's own transform and network, on three classes of images."""
    timm = import_timm()
    for label in range(3):
        folder = tmp_path / "val" / f"n{label}"
        folder.mkdir(parents=True)
        for number in range(2):
            picture(10 * label + number).save(folder / f"{number}.png")
        (folder / "notes.txt").touch()
    info = replace(IMAGENET, num_classes=3, max_test_size=6)
    monkeypatch.setattr(imagenet, "INFO", info)
    torch.manual_seed(0)
    network = timm.create_model("test_byobnet", num_classes=3).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    images, lines = imagenet.load(tmp_path, "test"), Lines()
    outcome = evaluate_external(
        "timm:test_byobnet", Dataset(images.info, test=images), EvalConfig(attacks=()),
        weights=tmp_path / "weights.pt", results=tmp_path, reporter=lines, device="cpu",
    )  # fmt: skip
    steps = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    with torch.no_grad():
        batch = torch.stack([steps(images.open_image(position)) for position in range(6)])
        expected = network(batch).argmax(1).tolist()
    assert batch.shape[-1] != info.image_size
    verdicts = outcome.evaluation.verdicts
    assert verdicts["clean_pred"].tolist() == expected
    record = RunDirectory(tmp_path, outcome.run_id).record
    assert record["source"]["preparation"]["size"] == batch.shape[-1]
    assert lines.about("images are prepared as the source says: the shorter side")
    assert lines.about("3 files in")


def test_robustbench_weights_of_another_entry(rice):
    with pytest.raises(UserError, match="not those of robustbench:Sehwag2021Proxy_R18 "):
        zoos.robustbench_network("Sehwag2021Proxy_R18", "cifar10", "Linf", rice[0])


def test_robustbench_ensemble_has_no_single_file(rice):
    with pytest.raises(UserError, match="Chen2020Adversarial is not loaded from one file"):
        load_external("robustbench:Chen2020Adversarial", dataset_info=CIFAR, weights=rice[0])


def test_timm_network_with_weights(tmp_path):
    timm = import_timm()
    network = timm.create_model("test_byobnet", num_classes=10).eval()
    path = tmp_path / "weights.pt"
    torch.save(network.state_dict(), path)
    model, facts = load_external("timm:test_byobnet", dataset_info=CIFAR, weights=path)
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(model(X), network((X - mean) / std))
    assert facts["arch"] == facts["model_name"] == "test_byobnet"
    assert facts["sha256"] == file_sha256(path)


def test_statistics_of_three_channels_are_not_used_for_one(tmp_path):
    """A network for digits was refused, since the harness normalised it by three channels."""
    timm, info = import_timm(), dataset_info("digits")
    torch.manual_seed(0)
    network = timm.create_model("test_byobnet", num_classes=10, in_chans=1).eval()
    torch.save(network.state_dict(), tmp_path / "gray.pt")
    path, x = tmp_path / "gray.pt", torch.rand(3, 1, 8, 8)
    model, facts = load_external("timm:test_byobnet", dataset_info=info, weights=path)
    with torch.no_grad():
        expected = network((x - info.mean[0]) / info.std[0])
        torch.testing.assert_close(model(x), expected)
        plain = load_external(
            "timm:test_byobnet", dataset_info=info, weights=path, normalize="none"
        )[0]
        torch.testing.assert_close(plain(x), network(x))
    assert facts["normalize"] == {"mean": list(info.mean), "std": list(info.std)}
    assert facts["notes"] == ["images are normalised by the mean and std of digits"]


def test_timm_network_with_published_weights(monkeypatch):
    timm = import_timm()
    network = timm.create_model("test_byobnet", num_classes=10)
    options = {}
    monkeypatch.setattr(timm, "create_model", lambda name, **kw: options.update(kw) or network)
    model, facts = load_external("timm:test_byobnet", dataset_info=CIFAR)
    assert options == {"pretrained": True}
    assert facts["sha256"] == state_dict_sha256(model)


def test_timm_faults(monkeypatch):
    timm = import_timm()
    with pytest.raises(UserError, match="unknown timm model 'resnet19': did you mean resnet18"):
        load_external("timm:resnet19", dataset_info=CIFAR)

    def offline(name, **_):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        UserError, match=r"timm:resnet18 cannot be downloaded .*no route\): connect"
    ):
        load_external("timm:resnet18", dataset_info=CIFAR)


def test_torchvision_network(tmp_path, monkeypatch):
    models = import_torchvision().models
    network = models.squeezenet1_1(num_classes=10).eval()
    path = tmp_path / "weights.pt"
    torch.save(network.state_dict(), path)
    model, facts = load_external("torchvision:squeezenet1_1", dataset_info=CIFAR, weights=path)
    torch.testing.assert_close(model.mean.flatten(), IMAGENET_MEAN)
    torch.testing.assert_close(model.model(X), network(X), rtol=0, atol=0)
    assert facts["sha256"] == file_sha256(path)

    called = []
    monkeypatch.setattr(
        models, "get_model", lambda name, weights: called.append(weights) or network
    )
    load_external("torchvision:squeezenet1_1", dataset_info=CIFAR)
    assert [weights.name for weights in called] == ["IMAGENET1K_V1"]


def test_torchvision_faults(monkeypatch):
    models = import_torchvision().models
    with pytest.raises(UserError, match="unknown torchvision model 'resnet19'"):
        load_external("torchvision:resnet19", dataset_info=CIFAR)
    with pytest.raises(UserError, match=r"no IMAGENET1K_V1 weights of vit_h_14: give a file"):
        load_external("torchvision:vit_h_14", dataset_info=CIFAR)

    def offline(name, **_):
        raise URLError("offline")

    monkeypatch.setattr(models, "get_model", offline)
    with pytest.raises(UserError, match="torchvision:resnet18 cannot be downloaded"):
        load_external("torchvision:resnet18", dataset_info=CIFAR)


@pytest.mark.parametrize("zoo", ["robustbench", "timm", "torchvision"])
def test_package_that_is_not_installed(zoo, monkeypatch):
    def absent():
        raise ModuleNotFoundError(f"No module named '{zoo}'")

    monkeypatch.setattr(zoos, f"import_{zoo}", absent)
    with pytest.raises(UserError, match=rf'{zoo} cannot be imported .*"divergence-bench\[zoo\]"'):
        load_external(f"{zoo}:x", dataset_info=CIFAR)
