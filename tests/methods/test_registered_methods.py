"""Every registered method must have a complete card, and recipes that resolve to runs."""

import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter

import methods
from harness.config import RunConfig
from harness.experiment.resolve import resolve
from harness.method import Method, Task
from harness.registry import METHODS
from methods._papers import bibliography

NAMES = METHODS.names()
RECIPES = [(name, recipe) for name in NAMES for recipe in METHODS.get(name).recipes]
DATASETS = ("digits", "fashion-mnist", "cifar10", "cifar100")
DEFAULTS = [
    (name, recipe)
    for name, recipe in RECIPES
    if recipe in DATASETS and METHODS.get(name).card.family != "distillation"
]
FOLDER = Path(methods.__file__).parent


def test_methods_are_found_by_their_files() -> None:
    folders = (FOLDER, FOLDER / "adversarial", FOLDER / "distillation")
    files = [path.stem for folder in folders for path in folder.glob("*.py")]
    assert [name.replace("_", "-") for name in sorted(files) if name[0] != "_"] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_card_is_complete(name: str) -> None:
    method = METHODS.get(name)
    assert isinstance(method, Method)
    card = method.card
    for text in (card.title, card.summary, card.formula, card.paper):
        assert text.strip() == text != ""
    assert card.summary.endswith(".")
    cited = {"paper": card.paper, "url": card.url, "bibtex": card.bibtex}
    assert cited in bibliography().values(), (
        'add its paper to methods/papers.bib and cite it on the card by **cite("key")'
    )
    assert set(card.tables) <= set(range(1, 10))
    assert set(method.recipe_notes) <= set(method.recipes)
    assert all(note.endswith(".") for note in (*card.notes, *method.recipe_notes.values()))
    assert set(card.released_names) <= set(method.params.model_fields)
    assert len(set(card.released_names.values())) == len(card.released_names)
    assert {"digits", "cifar10", "cifar100"} <= set(method.recipes)


def test_the_bibliography_has_no_entry_that_no_card_cites() -> None:
    cited = {METHODS.get(name).card.bibtex for name in NAMES}
    assert cited == {paper["bibtex"] for paper in bibliography().values()}
    for key, paper in bibliography().items():
        assert re.fullmatch(r"\S.*: .+, (arXiv|\w+) \d{4}", paper["paper"]), key
        assert not set("{}\\") & set(paper["paper"]), key
        assert paper["url"].startswith("https://"), key
        assert paper["bibtex"].count("{") == paper["bibtex"].count("}"), key


def test_a_paper_is_printed_in_short_and_copied_in_full() -> None:
    cited = METHODS.get("trades").card
    assert cited.paper == (
        "Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan: Theoretically Principled Trade-off between "
        "Robustness and Accuracy, ICML 2019"
    )
    assert cited.url == "https://arxiv.org/abs/1901.08573"
    assert "booktitle = {International Conference on Machine Learning}" in cited.bibtex
    assert METHODS.get("kd").card.paper.endswith("in a Neural Network, arXiv 2015")
    assert "journal = {arXiv preprint arXiv:1503.02531}" in METHODS.get("kd").card.bibtex
    journal = METHODS.get("gkl").card
    assert journal.paper.endswith("Divergence Loss, TPAMI 2026")
    full = "IEEE Transactions on Pattern Analysis and Machine Intelligence"
    assert f"journal = {{{full}}}," in journal.bibtex


def test_at_most_one_class_is_between_a_methods_task_and_the_engines() -> None:
    def subclasses(base: type) -> set[type]:
        return {every for each in base.__subclasses__() for every in {each, *subclasses(each)}}

    for name in NAMES:
        METHODS.get(name)
    tasks = {task for task in subclasses(Task) if task.__module__.startswith("methods.")}
    assert len(tasks) > len(NAMES) / 2
    for task in tasks:
        assert len([each for each in task.__mro__ if issubclass(each, Task)]) <= 3, task


@pytest.mark.parametrize("name", NAMES)
def test_formula_is_balanced_and_names_parameters_that_exist(name: str) -> None:
    method = METHODS.get(name)
    formula = method.card.formula
    bare = re.sub(r"\\[{}|]", "", formula)
    assert bare.count("{") == bare.count("}")
    assert bare.count(r"\left") == bare.count(r"\right")
    assert formula.isascii()
    named = {match.replace(r"\_", "_") for match in re.findall(r"\\mathtt\{([^}]*)\}", formula)}
    assert named <= set(method.params.model_fields)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_have_defaults_and_refuse_unknown_names(name: str) -> None:
    params = METHODS.get(name).params
    TypeAdapter(dict).dump_json(params().model_dump(mode="json"))
    with pytest.raises(ValueError, match="no_such_parameter"):
        params.model_validate({"no_such_parameter": 1})


@pytest.mark.parametrize(("name", "recipe"), RECIPES)
def test_recipe_is_a_run(name: str, recipe: str) -> None:
    method = METHODS.get(name)
    overrides = method.recipes[recipe]()
    config = resolve(name, recipe=recipe)
    assert config.method == name
    assert config.evaluation.eps[-1] > 0
    method.params.model_validate(config.params)
    TypeAdapter(dict).dump_json(overrides)
    assert overrides == method.recipes[recipe](), "a recipe must be the same each time"
    if method.card.family != "distillation":
        assert (config.training.attack is None) == (method.card.family == "natural")


@pytest.mark.parametrize(("name", "dataset"), DEFAULTS)
def test_default_recipes(name: str, dataset: str) -> None:
    overrides = METHODS.get(name).recipes[dataset]()
    config = RunConfig.model_validate({"method": name, **overrides})
    assert config.data.name == dataset
    small = dataset in ("digits", "fashion-mnist")
    assert config.evaluation.eps[-1] == pytest.approx(
        {"digits": 0.15, "fashion-mnist": 0.1}[dataset] if small else 8 / 255
    )
    # A learned strategy chooses the radius of each image.
    if config.training.attack and "eps_choices" not in METHODS.get(name).params.model_fields:
        assert config.training.attack.eps == pytest.approx(config.evaluation.eps[-1], rel=0.02)
