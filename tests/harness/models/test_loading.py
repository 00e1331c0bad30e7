"""Loading models from files and functions: every source, and planted faults."""

import re
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from harness.errors import UserError
from harness.models import build_model
from harness.models.checkpoint import MODEL_FORMAT, state_dict_sha256
from harness.models.loading import load_external, load_model_file
from harness.models.normalize import Normalized
from harness.store.files import file_sha256
from harness.training.checkpoint import load_training, save_training

INFO = SimpleNamespace(
    name="tiny", num_classes=4, channels=3, image_size=8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)
)


@pytest.fixture
def x():
    return torch.rand(3, 3, 8, 8)


def network():
    model = build_model("resnet8", 4, 3, 8)
    model(torch.rand(8, 3, 8, 8))  # moves the running statistics
    return model.eval()


def saved(path, model, normalize=None, num_classes=4, arch="resnet8"):
    """A file as a finished run writes it."""
    content = {
        "format": MODEL_FORMAT,
        "arch": arch,
        "num_classes": num_classes,
        "in_channels": 3,
        "image_size": 8,
        "normalize": normalize,
        "state_dict": model.state_dict(),
    }
    torch.save(content, path)
    return path


def load(path, **options):
    return load_external(str(path), dataset_info=INFO, **options)


def test_model_of_a_run(tmp_path, x):
    model = network()
    path = saved(tmp_path / "model.pt", model)
    loaded, facts = load(path)
    torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)
    assert not loaded.training
    assert facts == {
        "notes": [],
        "source": str(path),
        "sha256": file_sha256(path),
        "arch": "resnet8",
        "model_name": "model.pt",
        "normalize": None,
        "weights": None,
        "weights_key": None,
    }
    torch.testing.assert_close(load_model_file(path)(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("wrapped", [True, False])
def test_model_of_a_run_that_normalises(tmp_path, x, wrapped):
    model = Normalized(network(), INFO.mean, INFO.std).eval()
    normalize = {"mean": list(INFO.mean), "std": list(INFO.std)}
    path = saved(tmp_path / "model.pt", model if wrapped else model.model, normalize)
    loaded, facts = load(path)
    torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)
    torch.testing.assert_close(load_model_file(path)(x), model(x), rtol=0, atol=0)
    assert facts["normalize"] == normalize


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_bare_state_dict(tmp_path, x, key):
    model = network()
    state = nn.DataParallel(model).state_dict() if key else model.state_dict()
    path = tmp_path / "weights.pth"
    torch.save(state if key is None else {key: state, "epoch": 240}, path)
    loaded, facts = load(path, arch="resnet8")
    torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)
    assert facts["arch"] == "resnet8"
    assert facts["sha256"] == file_sha256(path)


def test_a_bare_state_dict_is_normalised_only_if_it_holds_statistics(tmp_path, x):
    model = Normalized(network(), INFO.mean, INFO.std).eval()
    for whole in (model, model.model):
        torch.save(whole.state_dict(), tmp_path / "weights.pt")
        loaded, _ = load(tmp_path / "weights.pt", arch="resnet8")
        torch.testing.assert_close(loaded(x), whole(x))


def test_published_names_of_a_teacher(tmp_path, x):
    model = build_model("wrn-16-1", 4, 3, 8).eval()

    def released(name):
        name = re.sub(r"^stages\.(\d)\.", lambda stage: f"block{int(stage[1]) + 1}.layer.", name)
        return re.sub(r"^bn\.", "bn1.", name.replace("shortcut", "convShortcut"))

    state = {released(name): tensor for name, tensor in model.state_dict().items()}
    assert {"bn1.weight", "block2.layer.0.convShortcut.weight"} <= set(state)
    torch.save({"model": state}, tmp_path / "teacher.pth")
    loaded, _ = load(tmp_path / "teacher.pth", arch="wrn-16-1")
    torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)


def test_state_dict_without_its_architecture(tmp_path):
    torch.save(network().state_dict(), tmp_path / "bare.pt")
    with pytest.raises(UserError, match=r"bare\.pt holds a state dict, .* --arch"):
        load(tmp_path / "bare.pt")


def test_state_dict_of_another_architecture(tmp_path):
    torch.save(network().state_dict(), tmp_path / "bare.pt")
    with pytest.raises(UserError, match=r"another network \(missing stages\.0\.1\.conv1\.weight"):
        load(tmp_path / "bare.pt", arch="resnet14")


@pytest.mark.parametrize("own", [True, False])
def test_model_of_other_classes(tmp_path, own):
    model, path = build_model("resnet8", 10, 3, 8), tmp_path / "ten.pt"
    saved(path, model, num_classes=10) if own else torch.save(model.state_dict(), path)
    with pytest.raises(UserError, match=r"ten\.pt has 10 classes, but tiny has 4: choose"):
        load(path, arch=None if own else "resnet8")


def test_model_of_other_channels(tmp_path):
    gray = SimpleNamespace(**{**vars(INFO), "channels": 1})
    path = saved(tmp_path / "model.pt", network())
    with pytest.raises(UserError, match="cannot take tiny images of 1x8x8"):
        load_external(str(path), dataset_info=gray)


def test_contradictions(tmp_path):
    path = saved(tmp_path / "model.pt", network())
    with pytest.raises(UserError, match="holds a resnet8, not a resnet14: leave out"):
        load(path, arch="resnet14")
    with pytest.raises(UserError, match="is itself a file of weights"):
        load(path, weights=path)
    with pytest.raises(UserError, match="architecture resnet8 was given, but timm:x has its own"):
        load("timm:x", arch="resnet8")
    with pytest.raises(UserError, match=r"key ema was given, but .*model\.pt was saved by a run"):
        load(path, weights_key="ema")
    for source in ("timm:x", "no_such_module:f"):
        with pytest.raises(UserError, match=f"key ema was given, but no weights file for {source}"):
            load(source, weights_key="ema")
    with pytest.raises(UserError, match=r"key ema was given, but RobustBench .*robustbench:L2/x"):
        load("robustbench:L2/x", weights=path, weights_key="ema")


def test_file_that_no_run_saved(tmp_path):
    torch.save(network().state_dict(), tmp_path / "bare.pt")
    with pytest.raises(UserError, match="was not saved by a run"):
        load_model_file(tmp_path / "bare.pt")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("arch", None),
        ("in_channels", -1),
        ("in_channels", 2**63 - 1),
        ("image_size", 0),
        ("num_classes", "10"),
        ("normalize", {}),
        ("normalize", {"mean": [0.5], "std": [0.0]}),
        ("normalize", {"mean": [0.5, 0.5], "std": [float("nan")] * 2}),
    ],
)
def test_a_field_that_no_run_writes_is_named(tmp_path, field, value):
    path = saved(tmp_path / "model.pt", network())
    torch.save({**torch.load(path, weights_only=True), field: value}, path)
    with pytest.raises(UserError, match=rf"has {field} .*, which no run writes: restore the file"):
        load_model_file(path)


@pytest.mark.parametrize("read", [load_model_file, load_training])
def test_a_changed_byte_of_a_weight_is_no_weight(tmp_path, read):
    """``torch.load`` does not look at the checksums in the file."""
    path, model = tmp_path / "model.pt", network()
    if read is load_training:
        save_training(path, model=model.state_dict())
    else:
        saved(path, model)
    assert read(path)
    content = bytearray(path.read_bytes())
    content[content.index(model.state_dict()["fc.weight"].numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged|cannot be read"):
        read(path)


@pytest.mark.parametrize(
    "damaged",
    [lambda content: content[:1000], lambda content: content.replace(b"PK\x01\x02", b"PK\x01\x03")],
)
def test_damaged_model_of_a_run(tmp_path, damaged):
    path = saved(tmp_path / "model.pt", network())
    path.write_bytes(damaged(path.read_bytes()))
    with pytest.raises(UserError, match=r"model\.pt is damaged .*: restore it"):
        load_model_file(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("arch", None),
        ("arch", 3),
        ("num_classes", "4"),
        ("normalize", [0.5]),
        ("normalize", {"mean": "0.5"}),
        ("state_dict", None),
    ],
)
def test_an_edited_model_of_a_run_is_refused(tmp_path, field, value):
    path = saved(tmp_path / "model.pt", network())
    content = torch.load(path, weights_only=True)
    content[field] = value
    torch.save(content, path)
    for read in (load_model_file, load):
        with pytest.raises(UserError, match=rf"model\.pt has {field} .*, which no run writes"):
            read(path)
    del content[field]
    torch.save(content, path)
    with pytest.raises(UserError, match=f"has {field} None, which no run writes"):
        load(path)


def test_a_user_may_say_how_images_are_normalised(tmp_path, x):
    model, path = network(), tmp_path / "weights.pt"
    torch.save({"net": model.state_dict()}, path)
    loaded, facts = load(path, arch="resnet8", normalize="dataset")
    expected = Normalized(model, INFO.mean, INFO.std).eval()
    torch.testing.assert_close(loaded(x), expected(x))
    assert facts["normalize"] == {"mean": list(INFO.mean), "std": list(INFO.std)}
    _, silent = load(path, arch="resnet8")
    said = f"{path} does not say how images were normalised, and normalize is not given"
    assert said in silent["notes"]
    assert said not in facts["notes"]
    saved(path, model, {"mean": list(INFO.mean), "std": list(INFO.std)})
    torch.testing.assert_close(load(path, normalize="none")[0](x), model(x))


class TestFunctions:
    """Specs of the kind package.module:function."""

    @pytest.fixture(autouse=True)
    def _module(self, tmp_path, monkeypatch):
        (tmp_path / "my_networks.py").write_text(
            "from torch import nn\n"
            "def linear(): return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))\n"
            "def pair(): return nn.Sequential(nn.Flatten(), nn.LSTM(192, 4))\n"
            "def maps(): return nn.Conv2d(3, 4, 3)\n"
            "def number(): return 3\n"
            "def raises(): raise KeyError('width')\n"
            "def needs(width): return linear()\n"
            "def stops(): raise SystemExit(3)\n"
            "def double(): return linear().double()\n"
            "def half(): return linear().half()\n"
            "class Rows(nn.Module):\n"
            "    def __init__(self, rows):\n"
            "        super().__init__()\n"
            "        self.linear, self.rows = linear(), rows\n"
            "    def forward(self, x): return self.linear(x)[: self.rows]\n"
            "class Squeezed(Rows):\n"
            "    def forward(self, x): return self.linear(x).squeeze()\n"
            "class Casting(Rows):\n"
            "    def forward(self, x): return self.linear.double()(x.double()).float()\n"
            "def one_row(): return Rows(1)\n"
            "def two_rows(): return Rows(2)\n"
            "def squeezed(): return Squeezed(0)\n"
            "class Pairs(Rows):\n"
            "    def forward(self, x): return self.linear(x) + 0 * x[1, 0, 0, 0]\n"
            "def pairs(): return Pairs(0)\n"
            "def casting(): return Casting(0)\n"
            "WIDTH = 3\n"
            "INSTANCE = linear()\n"
        )
        (tmp_path / "my_typo.py").write_text("def linear(:\n")
        (tmp_path / "my_setup.py").write_text("raise RuntimeError('no licence\\nfound')\n")
        (tmp_path / "my_exit.py").write_text("raise SystemExit(3)\n")
        monkeypatch.syspath_prepend(tmp_path)
        yield
        sys.modules.pop("my_networks", None)

    def test_network(self, x):
        loaded, facts = load("my_networks:linear")
        assert loaded(x).shape == (3, 4)
        assert facts["sha256"] == state_dict_sha256(loaded)
        assert facts["model_name"] == "my_networks:linear"

    def test_network_with_weights(self, x, tmp_path):
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
        torch.save({"state_dict": model.state_dict()}, tmp_path / "linear.pt")
        loaded, facts = load("my_networks:linear", weights=tmp_path / "linear.pt")
        torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)
        assert facts["sha256"] == file_sha256(tmp_path / "linear.pt")

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("my_networks:absent", "cannot be imported .*AttributeError.* check the name"),
            ("no_such_module:f", "cannot be imported .*ModuleNotFoundError.* check the name"),
            ("my_networks:number", "returned a int: it must return an nn.Module"),
            ("my_networks:pair", "does not return logits"),
            ("my_networks:maps", "does not return logits"),
            ("my_networks:one_row", r"logits .*for 3 images it returns \[1, 4\].*: wrap it"),
            ("my_networks:two_rows", r"logits .*for 3 images it returns \[2, 4\].*: wrap it"),
            ("my_networks:squeezed", r"logits .*for 1 image it returns \[4\].*: wrap it"),
            ("my_networks:pairs", r"cannot take a single image \(IndexError: .*\): wrap it"),
            ("my_networks:raises", "raises raised KeyError: 'width' .*: it must take no argument"),
            ("my_networks:needs", "raised TypeError: .*argument: 'width' .*: it must take no arg"),
            ("my_networks:WIDTH", "WIDTH is of type int, not a function: name a function without"),
            ("my_networks:INSTANCE", "INSTANCE is of type Sequential, not a function: name a func"),
            ("my_networks:double", r"double has float64 parameters.*: call \.float\(\)"),
            ("my_networks:half", r"half has float16 parameters.*: call \.float\(\)"),
            ("my_typo:linear", r"be imported \(SyntaxError: .*my_typo\.py, line 1\)\): fix"),
            ("my_setup:linear", r"cannot be imported \(RuntimeError: no licence\): fix"),
        ],
    )
    def test_faults(self, spec, message):
        with pytest.raises(UserError, match=message):
            load(spec)

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("my_networks:stops", r"stops raised SystemExit: 3 when it was called"),
            ("my_exit:linear", r"linear cannot be imported \(SystemExit: 3\): fix the module"),
        ],
    )
    def test_a_request_to_exit_does_not_end_the_command(self, spec, message):
        with pytest.raises(UserError, match=message):
            load(spec)

    def test_network_that_computes_in_float64_by_itself(self, x):
        loaded, _ = load("my_networks:casting")
        assert loaded(x).dtype == torch.float32
