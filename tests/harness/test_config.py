"""The run's identity: what changes the answer changes the run id, and nothing else does."""

import pytest
from pydantic import BaseModel, ValidationError

from harness.config import (
    STANDARD_ATTACKS,
    AttackBudget,
    EvalConfig,
    RunConfig,
    Section,
    assign,
    eps_text,
    merge,
    parse_budget,
)


def sections(model: type[BaseModel] = RunConfig) -> list[type[BaseModel]]:
    found = [model]
    for info in model.model_fields.values():
        for kind in (info.annotation, *getattr(info.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += sections(kind)
    return found


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_field_is_classified(section):
    assert issubclass(section, Section)
    for name, info in section.model_fields.items():
        assert isinstance(info.json_schema_extra, dict), f"{section.__name__}.{name}"
        assert isinstance(info.json_schema_extra["identity"], bool)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 1),
        ("method", "other"),
        ("params.weight", 2),
        ("data.train_limit", 10),
        ("model.arch", "resnet20"),
        ("training.epochs", 7),
        ("training.attack.eps", 0.2),
        ("training.optimizer.nesterov", True),
        ("training.weight_perturbation.gamma", 0.1),
    ],
)
def test_what_changes_the_answer_changes_the_id(path, value):
    base = {"method": "some", "training": {"attack": {"eps": 0.1}}}
    changed = RunConfig.model_validate(merge(base, assign(path, value)))
    assert changed.run_id != RunConfig.model_validate(base).run_id


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("device", "cuda:1"),
        ("results", "elsewhere"),
        ("data.root", "/images"),
        ("evaluation.eps", 0.5),
        ("training.monitor.every", 5),
        ("recipe", "same-by-another-name"),
    ],
)
def test_what_changes_only_the_cost_keeps_the_id(path, value):
    base = {"method": "some"}
    changed = RunConfig.model_validate(merge(base, assign(path, value)))
    assert changed.run_id == RunConfig.model_validate(base).run_id


def test_a_dumped_configuration_is_the_same_run():
    config = RunConfig.model_validate(
        {"method": "some", "training": {"attack": {"eps": "8/255"}}, "evaluation": {"eps": "1/3"}}
    )
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
    assert config.training.attack is not None
    assert config.training.attack.eps == 8 / 255


NO_RADII = (-0.1, 1.5, "1/0", "x/255", "", "0.1,", "nan", "inf", "0.1,1/10", [0.1, 2], (), None)
TOO_LARGE = (10**400, f"{10**400}/3")


@pytest.mark.parametrize("eps", [*NO_RADII, *TOO_LARGE], ids=lambda eps: str(eps)[:9])
def test_what_is_no_radius_is_refused(eps):
    with pytest.raises(
        ValidationError, match=r"not a radius|radius is given twice|at (most|least)"
    ):
        EvalConfig(eps=eps)


@pytest.mark.parametrize(
    ("given", "radii"),
    [(0.1, [0.1]), ("8/255", [8 / 255]), ("0.5, 0,1/3", [0, 1 / 3, 0.5]), (["1/5", 0], [0, 0.2])],
)
def test_one_radius_or_several_are_ascending_numbers(given, radii):
    config = EvalConfig(eps=given)
    assert list(config.eps) == radii
    # In records a single one is a number.
    stored = config.model_dump(mode="json")
    assert stored["eps"] == (radii[0] if len(radii) == 1 else radii)
    assert EvalConfig.model_validate(stored) == config


def test_at_radius_0_there_is_no_attack_and_one_protocol():
    clean, attacked = EvalConfig(eps="0,0.2", limit=40).protocols()
    assert clean.attacks == ()
    assert clean == EvalConfig(eps=0, limit=40).protocols()[0]
    assert (attacked.eps, attacked.attacks, attacked.limit) == (0.2, STANDARD_ATTACKS, 40)


@pytest.mark.parametrize(("given", "sizes"), [(16, (16,)), ("64, 16", (16, 64)), ([8, 8], (8,))])
def test_graph_sizes_are_one_number_or_several(given, sizes):
    assert EvalConfig(graph_sizes=given).graph_sizes == sizes


def test_only_another_budget_than_the_standard_one_is_part_of_the_protocol():
    assert "budget" not in EvalConfig().identity_payload()
    assert EvalConfig(budget={"n_iter": 5}).identity_payload()["budget"]["n_iter"] == 5


@pytest.mark.parametrize(
    ("eps", "text"),
    [
        (8 / 255, "8/255"),
        (0.5 / 255, "0.001961"),
        (128 / 255, "128/255"),
        (0.03137255087494850, "8/255"),  # from float32
        (0.031, "0.031"),
        (0.2, "0.2"),
        (1.0, "1"),
        (3.0, "3"),
        (1e-9, "1e-9"),
        (2e-7 / 3, "6.667e-8"),
        (1e308, "1e+308"),
        (0.0, "0"),
    ],
)
def test_a_radius_is_written_as_papers_do(eps, text):
    assert eps_text(eps) == text
    assert EvalConfig(norm="L2", eps=text).eps == (pytest.approx(eps, rel=1e-3),)


def test_every_float_is_finite():
    """A recipe, an option or a file may hold ``inf`` or ``1e400``; both are floats for Python."""
    for section in sections():
        for name, info in section.model_fields.items():
            if float in (info.annotation, *getattr(info.annotation, "__args__", ())):
                for value in (float("inf"), float("nan"), "1e400"):
                    with pytest.raises(ValidationError, match=rf"\n{name}\n.*(finite|a radius)"):
                        section.model_validate({name: value})


def test_only_a_linf_radius_ends_at_1():
    assert EvalConfig(norm="L2", eps=3).eps == (3,)
    with pytest.raises(ValidationError, match="a Linf radius is at most 1"):
        EvalConfig(norm="Linf", eps=3)


def test_unknown_fields_are_refused():
    with pytest.raises(ValidationError, match="Extra inputs"):
        RunConfig.model_validate({"method": "some", "epoch": 3})


def test_merge_lays_sections_on_sections_and_changes_neither():
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    over = {"a": {"b": 5}, "e": None}
    assert merge(base, over) == {"a": {"b": 5, "c": 2}, "d": 3, "e": None}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}


@pytest.mark.parametrize(
    ("text", "attacks", "changed"),
    [
        ("standard", STANDARD_ATTACKS, {}),
        ("fast", ("apgd-ce", "apgd-t"), {}),
        ("none", (), {}),
        ("n_iter=20", ("square",), {"n_iter": 20, "n_restarts": 3}),
        ("fast, n_iter = 20,n_queries=9", ("apgd-ce", "apgd-t"), {"n_iter": 20, "n_queries": 9}),
    ],
)
def test_a_named_budget_is_all_standard_and_numbers_change_some(text, attacks, changed):
    before = {"attacks": ("square",), "budget": {"n_restarts": 3}}
    config = EvalConfig(**merge(before, parse_budget(text)))
    assert (config.attacks, config.budget) == (attacks, AttackBudget(**changed))


@pytest.mark.parametrize("text", ["", "slow", "n_iter=20,fast", "n_iter", "n_iter=-1", "steps=3"])
def test_text_that_is_no_budget_is_refused(text):
    with pytest.raises(ValueError, match="not a budget such as fast, n_iter=20"):
        parse_budget(text)


def test_attacks_may_be_named_like_a_budget():
    assert EvalConfig(attacks="fast").attacks == ("apgd-ce", "apgd-t")
    assert EvalConfig(attacks="standard").identity_payload() == EvalConfig().identity_payload()
