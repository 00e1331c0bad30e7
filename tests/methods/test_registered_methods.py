"""What every registered method must bring: a whole card, and recipes that are runs."""

import re

import pytest
from pydantic import TypeAdapter

from harness.config import RunConfig
from harness.method import Method
from harness.registry import METHODS

NAMES = METHODS.names()
RECIPES = [(name, recipe) for name in NAMES for recipe in METHODS.get(name).recipes]
EXPECTED = ["acat", "at-awp", "dajat", "dkl", "dkl-ba", "dkl-ba-const", "gkl", "ikl", "kl"]
EXPECTED += ["mart", "pgd-at", "score", "trades", "trades-awp", "vanilla"]


def test_methods_are_found_by_their_files() -> None:
    assert set(EXPECTED) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_card_is_whole(name: str) -> None:
    method = METHODS.get(name)
    assert isinstance(method, Method)
    card = method.card
    for text in (card.title, card.summary, card.formula, card.paper):
        assert text.strip() == text != ""
    assert card.summary.endswith(".")
    assert card.url.startswith("https://")
    assert re.match(r"@\w+\{\w+,\n", card.bibtex)
    assert card.bibtex.count("{") == card.bibtex.count("}")
    assert set(card.tables) <= set(range(1, 10))
    assert all(note.endswith(".") for note in card.notes)


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
def test_released_names_are_of_parameters_and_differ(name: str) -> None:
    method = METHODS.get(name)
    released = method.card.released_names
    assert set(released) <= set(method.params.model_fields)
    assert len(set(released.values())) == len(released)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_notes_are_sentences_on_recipes_that_exist(name: str) -> None:
    method = METHODS.get(name)
    assert set(method.recipe_notes) <= set(method.recipes)
    assert all(note.endswith(".") for note in method.recipe_notes.values())


@pytest.mark.parametrize("name", NAMES)
def test_parameters_have_defaults_and_refuse_unknown_names(name: str) -> None:
    params = METHODS.get(name).params
    assert params().model_dump() == params.model_validate({}).model_dump()
    with pytest.raises(ValueError, match="no_such_parameter"):
        params.model_validate({"no_such_parameter": 1})


@pytest.mark.parametrize(("name", "recipe"), RECIPES)
def test_recipe_is_a_run(name: str, recipe: str) -> None:
    method = METHODS.get(name)
    overrides = method.recipes[recipe]()
    config = RunConfig.model_validate({"method": name, "recipe": recipe, **overrides})
    method.params.model_validate(config.params)
    TypeAdapter(dict).dump_json(overrides)
    assert overrides == method.recipes[recipe](), "a recipe must be the same each time"
    if method.card.family != "distillation":
        assert (config.training.attack is None) == (method.card.family == "natural")


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("dataset", ["digits", "fashion-mnist", "cifar10", "cifar100"])
def test_default_recipes(name: str, dataset: str) -> None:
    overrides = METHODS.get(name).recipes[dataset]()
    config = RunConfig.model_validate({"method": name, **overrides})
    assert config.data.name == dataset
    small = dataset in ("digits", "fashion-mnist")
    assert config.evaluation.eps[0] == pytest.approx(
        {"digits": 0.15, "fashion-mnist": 0.1}[dataset] if small else 8 / 255
    )
    if config.training.attack is not None:
        assert config.training.attack.eps == pytest.approx(config.evaluation.eps[0], rel=0.02)
