"""Teachers are found or trained, measured, part of the identity, and unchanged by students."""

import pytest
import torch
from distilling import TINY, Lines, registered, student
from distilling import trained as tiny_run

from harness.data import dataset_info, load_dataset
from harness.errors import UserError
from harness.experiment.resolve import recipe_changes, resolve, teacher_run
from harness.experiment.runner import run
from harness.experiment.teacher import load_teacher
from harness.models import build_model
from harness.models.loading import load_model_file
from harness.models.zoos import ZOOS, Loaded
from harness.store.database import Database
from harness.store.rundir import RunDirectory, list_runs

pytestmark = pytest.mark.usefixtures("_registered")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished student and its teacher in one results folder, which tests do not modify."""
    with registered():
        return student(tmp_path_factory.mktemp("trained"))


def teacher_of(trained: RunDirectory) -> RunDirectory:
    (found,) = (run for run in list_runs(trained.results) if run.record["method"] == "vanilla")
    return found


def right_and_all(run: RunDirectory) -> tuple[int, int]:
    """How many test images the run's model classifies correctly, and how many there are."""
    digits = load_dataset("digits").test
    with torch.no_grad():
        logits = load_model_file(run.model_path)(digits.images_float(slice(None)))
    return int((logits.argmax(1) == digits.labels).sum()), len(digits)


def test_an_auto_teacher_is_trained_once_and_serves_the_next_student(tmp_path):
    first = Lines()
    one = student(tmp_path, first)
    (announced,) = first.about("is trained first")
    teacher = teacher_of(one)
    assert teacher.run_id in announced
    assert teacher.record["status"] == "success"
    assert teacher.record["config"]["evaluation"]["attacks"] == []
    written = teacher.model_path.stat().st_mtime_ns
    second = Lines()
    two = student(tmp_path, second, seed=1)
    assert not second.about("is trained first")
    assert teacher.model_path.stat().st_mtime_ns == written
    assert two.record["teacher_facts"] == one.record["teacher_facts"]
    again = Lines()
    student(tmp_path, again)
    assert not again.about("teacher"), "a finished student needs no teacher"


def test_the_record_names_the_teacher_and_what_it_was_measured_at(trained):
    teacher, record = teacher_of(trained), trained.record
    right, n = right_and_all(teacher)
    facts = record["teacher_facts"]
    assert record["teacher"] == facts["arch"] == "resnet8"
    assert (facts["source"], facts["weights"]) == ("auto", teacher.run_id)
    assert facts["accuracy"]["value"] == right / n
    assert facts["accuracy"]["n"] == n
    assert facts["accuracy"]["low"] < right / n < facts["accuracy"]["high"]
    assert record["metrics"]["teacher_clean"] == facts["accuracy"]
    query = f"select teacher from runs where run_id = '{trained.run_id}'"
    assert Database(trained.results).query(query)["teacher"].tolist() == ["resnet8"]


def test_last_and_best_on_test_are_both_recorded(trained):
    metrics, tracked = trained.record["metrics"], [e["clean_test"] for e in trained.epochs()]
    assert len(tracked) == 2
    assert metrics["clean_last"]["value"] == pytest.approx(tracked[-1])
    assert metrics["clean_best"]["value"] == pytest.approx(max(tracked))
    assert metrics["clean_best_epoch"]["value"] == tracked.index(max(tracked)) + 1
    right, n = right_and_all(trained)
    assert tracked[-1] == right / n, "the weights are the last epoch's"
    assert trained.record["selection"] == "last"


def test_a_teacher_far_below_what_is_expected_is_refused(trained):
    measured = trained.record["teacher_facts"]["accuracy"]["value"]
    options = {"results": trained.results, "seed": 7, "teacher.minimum": measured + 0.001}
    with pytest.raises(UserError, match=rf"accuracy {100 * measured:.2f}% .* at least") as refused:
        run(resolve("distil", options={**TINY, **options}), Lines())
    assert "teacher.minimum" in str(refused.value)


def test_what_tells_teachers_apart_is_in_the_name_and_nothing_else(trained):
    def run_id(**options: object) -> str:
        return resolve("distil", options={**TINY, "results": trained.results, **options}).run_id

    other = trained.results / "other.pt"
    torch.save(build_model("resnet8", 10, 1, 8).state_dict(), other)
    copy = trained.results / "copy.pt"
    copy.write_bytes(other.read_bytes())
    base = run_id()
    assert base == trained.run_id
    assert run_id(**{"teacher.minimum": 0.5}) == base
    assert run_id(**{"teacher.logits": "forward"}) == base
    assert run_id(**{"teacher.source": teacher_of(trained).run_id[:12]}) == base
    assert run_id(**{"teacher.source": str(teacher_of(trained).model_path)}) == base
    assert run_id(**{"teacher.source": str(other)}) == run_id(**{"teacher.source": str(copy)})
    different = [
        run_id(**{"teacher.source": str(other)}),
        run_id(**{"teacher.arch": "resnet14"}),
        run_id(**{"teacher.seed": 1}),
        run_id(**{"teacher.config": {"training": {"epochs": 3}}}),
        run_id(**{"teacher.logits_dtype": "float16"}),
        run_id(seed=1),
    ]
    assert len({base, *different}) == 1 + len(different)


def test_a_teacher_from_a_file_is_no_change_of_the_recipe(trained):
    file = str(teacher_of(trained).model_path)
    base = {"results": trained.results, "teacher.method": None, "teacher.source": file}
    assert "teacher.weights" not in recipe_changes(resolve("distil", options=base))
    longer = {"teacher.config": {"training": {"epochs": 3}}}
    assert "teacher.weights" in recipe_changes(resolve("distil", options=longer))


def test_a_method_and_its_teacher_go_together(tmp_path):
    with pytest.raises(UserError, match="has no teacher"):
        resolve("vanilla", options={"teacher.arch": "resnet8"})
    with pytest.raises(UserError, match="learns from a teacher"):
        resolve("distil", assignments=["teacher=null"])
    with pytest.raises(UserError, match="unknown architecture 'resnet9'"):
        resolve("distil", options={"teacher.arch": "resnet9"})
    with pytest.raises(UserError, match="there is no run 'nothing'"):
        resolve("distil", options={"teacher.source": "nothing", "results": tmp_path})


def test_a_file_of_another_network_is_refused(trained, tmp_path):
    file = str(teacher_of(trained).model_path)
    options = {**TINY, "teacher.arch": "resnet14", "teacher.source": file, "results": tmp_path}
    with pytest.raises(UserError, match="its network is resnet8, not resnet14"):
        run(resolve("distil", options=options), Lines())
    options["results"], options["teacher.source"] = trained.results, teacher_of(trained).run_id
    with pytest.raises(UserError, match="its network is resnet8, not resnet14"):
        resolve("distil", options=options)


def test_a_teacher_of_other_classes_is_refused_in_a_sentence(trained, tmp_path):
    network = build_model("resnet8", 7, 1, 8)
    seven = tmp_path / "seven.pth"
    torch.save(network.state_dict(), seven)
    match = r"belong to another network .*fc.bias \[7\] instead of \[10\]"
    with pytest.raises(UserError, match=match):
        student(tmp_path, **{"teacher.source": str(seven)})
    file, record = tmp_path / "other.pt", torch.load(teacher_of(trained).model_path)
    torch.save({**record, "dataset": "svhn"}, file)
    with pytest.raises(UserError, match="its dataset is svhn, not digits; give another --teacher"):
        student(tmp_path, **{"teacher.source": str(file)})


@pytest.mark.parametrize(("arch", "larger"), [("resnet8", False), ("resnet14", True)])
def test_a_student_larger_than_its_teacher_is_told_of(trained, tmp_path, arch, larger):
    source = str(teacher_of(trained).model_path)
    lines = Lines()
    options = {"model.arch": arch, "teacher.source": source, "teacher.minimum": 0}
    student(tmp_path, lines, **options, **{"training.epochs": 1})
    networks = [build_model(name, 10, 1, 8) for name in (arch, "resnet8")]
    sizes = [sum(p.numel() for p in network.parameters()) for network in networks]
    expected = f"{sizes[0]:,} parameters against {sizes[1]:,} in the teacher"
    assert [expected in line for line in lines.about("larger than its teacher")] == [True] * larger


def test_a_run_goes_on_with_the_teacher_it_began_with(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        student(tmp_path, Lines("epoch 1/2  loss", after="the teacher resnet8"))
    config = resolve("distil", options={**TINY, "results": tmp_path})
    directory = RunDirectory(tmp_path, config.run_id)
    assert directory.record["status"] == "cancelled"
    path = RunDirectory(tmp_path, teacher_run(config).run_id).model_path
    good = path.read_bytes()
    content = torch.load(path, weights_only=True)
    content["state_dict"]["fc.bias"] += 1
    torch.save(content, path)
    with pytest.raises(UserError, match="began with another teacher"):
        student(tmp_path)
    path.write_bytes(good)
    student(tmp_path)
    assert directory.record["status"] == "success"


def test_a_teacher_that_training_changed_makes_the_student_void(tmp_path):
    with pytest.raises(RuntimeError, match="training changed the teacher"):
        student(tmp_path, method="meddling")
    lines = Lines()
    assert student(tmp_path, lines, method="moving").record["status"] == "success"
    assert not lines.about("teacher logits are kept")
    with pytest.raises(RuntimeError, match="registers the teacher as a submodule"):
        student(tmp_path, method="owning")


def test_no_weights_of_the_teacher_are_in_a_checkpoint(trained):
    state = torch.load(trained.checkpoint_path, weights_only=True)
    assert not state["task"]


def test_torchvision_weights_fill_the_registered_network(monkeypatch):
    torch.manual_seed(0)
    published = build_model("imagenet-resnet18", 1000, 3, 224)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def from_zoo(name: str, *_: object) -> Loaded:
        return Loaded(published, name, name, (mean, std), "0" * 64)

    monkeypatch.setitem(ZOOS, "torchvision", from_zoo)
    options = {"teacher.source": "torchvision:resnet18", "teacher.arch": "imagenet-resnet18"}
    config = resolve("distil", options=options)
    assert config.teacher is not None
    assert config.teacher.weights == "torchvision:resnet18"
    model, sha256 = load_teacher(config, dataset_info("imagenet"))
    assert sha256 == "0" * 64
    x = torch.rand(2, 3, 224, 224)
    normalised = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        expected = published.eval()(normalised)
        assert torch.equal(model.eval().features(x).logits, expected)


def test_a_bare_state_dict_is_normalised_as_the_student_is(tmp_path):
    network = build_model("resnet8", 10, 1, 8).eval()
    torch.save({"model": network.state_dict()}, tmp_path / "bare.pth")
    x, info = torch.rand(3, 1, 8, 8), load_dataset("digits").info
    for normalize in (False, True):
        options = {"teacher.source": str(tmp_path / "bare.pth"), "model.normalize": normalize}
        model, _ = load_teacher(resolve("distil", options=options), info)
        seen = (x - info.mean[0]) / info.std[0] if normalize else x
        with torch.no_grad():
            assert torch.allclose(model.eval()(x), network(seen))


def test_an_external_teacher_is_normalised_and_chosen_as_the_user_says(tmp_path):
    network, info = build_model("resnet8", 10, 1, 8).eval(), load_dataset("digits").info
    file, x = tmp_path / "weights.pt", torch.rand(3, 1, 8, 8)
    other = build_model("resnet8", 10, 1, 8)
    torch.save({"model": other.state_dict(), "ema": network.state_dict()}, file)
    options = {"teacher.source": str(file), "teacher.weights_key": "ema"}
    plain = resolve("distil", options=options)
    normalised = resolve("distil", options={**options, "teacher.normalize": "0.3;0.5"})
    keyless = resolve("distil", options={"teacher.source": str(file)})
    assert len({plain.run_id, normalised.run_id, keyless.run_id}) == 3
    with torch.no_grad():
        assert torch.equal(load_teacher(plain, info)[0].eval()(x), network(x))
        assert torch.allclose(load_teacher(normalised, info)[0].eval()(x), network((x - 0.3) / 0.5))
    with pytest.raises(UserError, match="under 'model', 'ema'"):
        load_teacher(keyless, info)


@pytest.mark.parametrize("setting", ["teacher.normalize", "teacher.weights_key"])
@pytest.mark.parametrize("source", ["auto", "run", "file"])
def test_settings_of_external_weights_are_refused_for_those_of_a_run(trained, setting, source):
    teacher = teacher_of(trained)
    named = {"auto": "auto", "run": teacher.run_id, "file": str(teacher.model_path)}[source]
    with pytest.raises(UserError, match=f"{setting}=dataset is for external weights"):
        student(trained.results, **{"teacher.source": named, setting: "dataset"})


@pytest.mark.parametrize("source", ["torchvision:resnet18", "timm:resnet18"])
def test_a_weights_key_is_refused_for_weights_that_are_not_in_a_file(tmp_path, source):
    with pytest.raises(UserError, match=f"weights_key=ema is for weights files, .* {source}"):
        student(tmp_path, **{"teacher.source": source, "teacher.weights_key": "ema"})


TEACHER_MODULE = """
import torch
from torch import nn
from harness.data import load_dataset

def means():
    train = load_dataset("digits", splits=("train",)).train
    images = train.images_float().flatten(1)
    linear = nn.Linear(64, 10)
    with torch.no_grad():
        linear.weight.copy_(torch.stack([images[train.labels == c].mean(0) for c in range(10)]))
        linear.bias.copy_(-linear.weight.square().sum(1) / 2)
    return nn.Sequential(nn.Flatten(), linear)

def guessing():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False)
"""


def test_the_teachers_seed_is_refused_where_it_would_have_no_effect():
    with pytest.raises(UserError, match=r"teacher\.config\.seed has no effect: set teacher\.seed"):
        resolve("distil", options={"teacher.config.seed": 1})
    assert teacher_run(resolve("distil", options={"teacher.seed": 1})).seed == 1


def test_a_function_may_give_the_teacher_and_a_guessing_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "teachers_of_a_test.py").write_text(TEACHER_MODULE)
    found = student(tmp_path, **{"teacher.source": "teachers_of_a_test:means"})
    facts = found.record["teacher_facts"]
    assert facts["arch"] == "teachers_of_a_test:means"
    assert facts["accuracy"]["value"] > 0.8
    guessing = {"teacher.source": "teachers_of_a_test:guessing"}
    with pytest.raises(UserError, match=r"no better than guessing: .*teacher\.minimum=0"):
        student(tmp_path, **guessing)
    student(tmp_path, **guessing, **{"teacher.minimum": 0})
    with pytest.raises(UserError, match="the teacher, a Sequential, does not expose its features"):
        tiny_run(tmp_path, "fitnet", **guessing, **{"teacher.minimum": 0})


def test_weights_that_are_not_finite_make_no_teacher(tmp_path):
    state = build_model("resnet8", 10, 1, 8).state_dict()
    state["fc.weight"][0, 0] = torch.nan
    torch.save(state, tmp_path / "nan.pt")
    options = {"teacher.source": str(tmp_path / "nan.pt")}
    with pytest.raises(UserError, match=r"fc\.weight in .*nan\.pt holds NaN"):
        student(tmp_path, **options)
