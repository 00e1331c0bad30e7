"""What an external network is refused for, in which sentence, and what identifies it."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from foreign import ACCEPTED, REFUSED, Around, small
from torch import nn

from harness.data import dataset_info
from harness.errors import UserError
from harness.models.external.probe import VARYING, FunctionModel, check_model, identify
from harness.models.normalize import Normalized

INFO = dataset_info("digits")


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_measured_wrongly_is_refused_in_a_sentence(name):
    make, message = REFUSED[name]
    model = make()
    modes = [module.training for module in model.modules()]
    with pytest.raises(UserError, match=message) as refused:
        check_model(model, INFO, "the model")
    assert "\n" not in str(refused.value)
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_can_be_measured_is_accepted_with_a_note_where_it_is_unusual(name):
    make, _, _, note = ACCEPTED[name]
    notes = check_model(make(), INFO, "the model")
    assert len(notes) == bool(note)
    assert note in "".join(notes)


def test_what_is_called_but_not_registered_keeps_its_statistics_and_mode():
    hidden = small().train()
    before = copy.deepcopy(hidden.state_dict())
    model = Around(nn.Identity(), lambda own, x: own.nets[0](x), nets=[hidden])
    with pytest.raises(UserError, match="not registered"):
        check_model(model, INFO, "the model")
    assert hidden.training
    assert all(torch.equal(before[name], value) for name, value in hidden.state_dict().items())


def test_a_function_adopts_the_networks_that_it_calls():
    nets = [small().train(), small()]
    model = FunctionModel(lambda x: nets[0](x) + nets[1](x))
    model.adopt_members(INFO, "the model")
    assert list(model.members) == nets
    assert not check_model(model, INFO, "the model")
    model.eval()
    assert not nets[0].training


def different(a: nn.Module, b: nn.Module) -> set[str]:
    first, second = identify(a, INFO), identify(b, INFO)
    return {name for name in first if first[name] != second[name]}


def test_a_model_is_identified_by_its_class_weights_code_and_answers():
    assert not different(small(), small())
    other = small()
    with torch.no_grad():
        other[4].bias.add_(torch.arange(10) / 10)
    assert different(small(), other) == {"sha256", "answers"}
    scaled = [Around(small(), lambda own, x: own.net(x) * own.factor, factor=f) for f in (1, 2.5)]
    assert different(*scaled) == set(), "a common factor of all logits changes no prediction"
    shifted = [Around(small(), lambda own, x: own.net(x + own.by), by=f) for f in (0.0, 0.5)]
    assert different(*shifted) == {"answers"}
    hook = small()
    hook[2].register_forward_hook(lambda module, inputs, output: output.flip(1))
    assert different(small(), hook) == {"answers"}
    behind = Normalized(small(), (0.5,), (0.25,)).eval()
    assert different(small(), behind) == {"sha256", "answers"}


def test_the_answers_do_not_depend_on_the_mode_the_generators_or_the_order_of_calls():
    noisy = Around(small(), lambda own, x: own.net(x + torch.randn_like(x)))
    assert identify(noisy, INFO)["answers"] == identify(noisy, INFO)["answers"] != VARYING
    assert identify(small().train(), INFO) == identify(small(), INFO)
    state = torch.random.get_rng_state()
    identify(noisy, INFO)
    assert torch.equal(state, torch.random.get_rng_state())


def test_answers_that_vary_are_no_part_of_the_identity():
    counting = ACCEPTED["counts"][0]
    assert identify(counting(), INFO)["answers"] == VARYING
    assert not different(counting(), counting())


LAYERS = {
    "a function that it imports": ("def scaled(x): return x * 2", "def scaled(x): return 1 - x"),
    "a constant that it imports": ("SCALE = -1.0", "SCALE = 0.5"),
    "a gradient alone": ("def scaled(x): return x", "def scaled(x): return x + 0 * x.detach()"),
    "a file that it reads": ("", ""),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_what_changes_outside_of_a_networks_class_changes_its_identity(kind, tmp_path, monkeypatch):
    """A helper was edited, or a file replaced, and the stored answer was shown again."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    forward = {
        "a function that it imports": "from layers_of_a_test import scaled\n",
        "a constant that it imports": "from layers_of_a_test import SCALE\n"
        "def scaled(x): return (x - 0.5) * SCALE\n",
        "a gradient alone": "from layers_of_a_test import scaled\n",
        "a file that it reads": "from pathlib import Path\n"
        f"def scaled(x): return x - float(Path({str(tmp_path / 'shift')!r}).read_text())\n",
    }[kind]
    Path(tmp_path, "network_of_a_test.py").write_text(
        "from torch import nn\nfrom foreign import small\n" + forward + "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.net = small()\n"
        "    def forward(self, x): return self.net(scaled(x))\n"
    )
    found = []
    for number, text in enumerate(LAYERS[kind]):
        Path(tmp_path, "layers_of_a_test.py").write_text(text)
        Path(tmp_path, "shift").write_text(str(number / 2))
        for name in ("network_of_a_test", "layers_of_a_test"):
            sys.modules.pop(name, None)
        found.append(identify(__import__("network_of_a_test").Net(), INFO))
    changed = {name for name in found[0] if found[0][name] != found[1][name]}
    expected = {
        "a function that it imports": {"code_sha256", "answers"},
        "a constant that it imports": {"code_sha256", "answers"},
        "a gradient alone": {"code_sha256"},
        "a file that it reads": {"answers"},
    }
    assert changed == expected[kind]
