"""From the user's options to a configuration: layers and one-line errors."""

import pytest

from harness.errors import UserError
from harness.experiment.resolve import evaluation, recipe_changes, resolve


def test_the_data_set_chooses_the_recipe_and_digits_is_the_default():
    assert resolve("trades").recipe == "digits"
    config = resolve("trades", dataset="cifar100")
    assert (config.recipe, config.data.name) == ("cifar100", "cifar100")


def test_assignments_lie_over_options_over_the_recipe():
    config = resolve(
        "trades",
        options={"training.epochs": 7, "model.arch": None, "seed": 3},
        assignments=["training.epochs=9", "training.attack.eps=8/255", "model.arch=resnet14"],
    )
    assert (config.training.epochs, config.seed, config.model.arch) == (9, 3, "resnet14")
    assert config.training.attack is not None
    assert config.training.attack.eps == 8 / 255
    assert recipe_changes(config) == {
        "training.epochs": 9,
        "training.attack.eps": 8 / 255,
        "model.arch": "resnet14",
    }


def test_an_unchanged_recipe_has_no_changes_whatever_the_seed():
    assert recipe_changes(resolve("trades", options={"seed": 5})) == {}


def test_a_default_and_its_value_given_are_one_run():
    default = resolve("trades")
    (name, value), *_ = default.params.items()
    assert resolve("trades", assignments=[f"params.{name}={value}"]).run_id == default.run_id


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method_name": "tradez"}, r"unknown method 'tradez': did you mean trades"),
        (
            {"recipe": "cifar-10"},
            r"method 'trades' has no recipe 'cifar-10': did you mean cifar10",
        ),
        ({"dataset": "cifar11"}, r"unknown dataset 'cifar11': did you mean cifar10"),
        (
            {"assignments": ["training.epoch=3"]},
            r"unknown setting 'training.epoch': did you mean training.epochs",
        ),
        (
            {"assignments": ["training.lr=1"]},
            r"unknown setting 'training.lr': did you mean training.optimizer.lr\?$",
        ),
        (
            {"assignments": ["params.kl_wight=3"]},
            r"unknown setting 'params.kl_wight': did you mean params.kl_weight",
        ),
        (
            {"options": {"teacher.source": "auto"}},
            r"method 'trades' has no teacher: leave the teacher's settings out",
        ),
        (
            {"method_name": None, "recipe": "digits"},
            r"methods have a recipe 'digits' \(ab, acat, .*\): name one, with --method in `run`",
        ),
        ({"assignments": ["training.epochs"]}, r"not of the form name=value"),
        ({"assignments": ["seed=" + "1" * 5000]}, r"--set seed has a number that is too long"),
        ({"assignments": ["seed=" + "[" * 99999]}, r"--set seed has .* too many brackets"),
        (
            {"options": {"training.optimizer.nesterov": True, "training.optimizer.momentum": 0}},
            r"training.optimizer is refused: nesterov needs a momentum greater than 0",
        ),
        (
            {"assignments": ["training.epochs=0"]},
            r"training.epochs = 0 is refused: input should be greater",
        ),
        (
            {"options": {"evaluation.eps": "300/255"}},
            r"evaluation.eps = '300/255' is refused: images are in",
        ),
        ({"options": {"evaluation.eps": -1}}, r"evaluation.eps = -1 is refused"),
        (
            {"options": {"evaluation.attacks": "square,square"}},
            r"evaluation is refused: an attack is named twice in square, square",
        ),
        (
            {"options": {"evaluation.attacks": ("apgd",)}},
            r"evaluation.attacks.0 = 'apgd' is refused",
        ),
    ],
)
def test_mistakes_are_one_sentence(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        resolve(**{"method_name": "trades", **arguments})
    assert "\n" not in str(caught.value)


def test_an_evaluation_protocol_from_a_stored_one():
    stored = {"eps": 0.1, "attacks": ["apgd-ce"]}
    config = evaluation(
        stored, {"eps": "1/5", "norm": None}, ["evaluation.seed=4", "chunk_size=50"]
    )
    assert (config.eps, config.attacks) == ((0.2,), ("apgd-ce",))
    assert (config.seed, config.chunk_size) == (4, 50)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        (["norm=L2"], True),
        (["norm=L2", "eps=0.5"], False),
        (["norm=Linf"], False),
        (["eps=0.5"], False),
    ],
)
def test_another_norm_needs_a_radius_of_its_own(changes, refused):
    def resolve_all() -> None:
        resolve("trades", assignments=[f"evaluation.{change}" for change in changes])
        evaluation({"norm": "Linf", "eps": 0.1}, {}, changes)
        options = dict(change.split("=") for change in changes)
        resolve("trades", options={f"evaluation.{name}": value for name, value in options.items()})

    if refused:
        with pytest.raises(UserError, match="chosen for Linf: give eps as well"):
            resolve_all()
        for layer in ({"norm": "L2"}, {"norm": "L2", "eps": None}):
            with pytest.raises(UserError, match="chosen for Linf: give eps as well"):
                evaluation({}, layer, [])
    else:
        resolve_all()
    assert evaluation({"norm": "L2", "eps": 2}, {"norm": "L2"}, []).eps == (2,)


def test_attacks_are_named_with_commas_wherever_they_are_set():
    expected = ("apgd-ce", "square")
    assert evaluation({}, {"attacks": "apgd-ce, square"}, []).attacks == expected
    assert evaluation({}, {}, ["attacks=apgd-ce,square"]).attacks == expected
    set_ = ["evaluation.attacks=apgd-ce,square"]
    assert resolve("trades", assignments=set_).evaluation.attacks == expected
    assert evaluation({}, {"attacks": ""}, []).attacks == ()


@pytest.mark.parametrize(
    ("setting", "largest"),
    [
        ("seed", 2**63 - 1),
        ("evaluation.seed", 2**63 - 1),
        ("evaluation.chunk_size", 2**31 - 1),
        ("data.train_limit", 2**31 - 1),
    ],
)
def test_a_number_is_no_larger_than_the_database_can_hold(setting, largest):
    resolve("trades", assignments=[f"{setting}={largest}"])
    with pytest.raises(UserError, match=f"{setting} = .* at most {largest}"):
        resolve("trades", assignments=[f"{setting}={largest + 1}"])


@pytest.mark.parametrize(
    "path",
    ["training.optimizer.lr", "params.kd_weight", "training.attack.step_size", "data.rotation"],
)
@pytest.mark.parametrize("value", ["Infinity", "1e400", "NaN", "inf"])
def test_a_number_that_is_not_finite_is_refused(path: str, value: str) -> None:
    method = "kd" if path.startswith("params") else "pgd-at"
    with pytest.raises(UserError, match=rf"^{path} = .* is refused: input should be a finite"):
        resolve(method, assignments=[f"{path}={value}"])


@pytest.mark.parametrize("path", ["method", "recipe"])
def test_a_run_has_the_method_whose_recipe_it_follows(path: str) -> None:
    with pytest.raises(
        UserError, match=rf"^{path}=trades cannot be a setting: give it with --{path}"
    ):
        resolve("pgd-at", assignments=[f"{path}=trades"])


@pytest.mark.parametrize("eps", ["1e308", "8.1", "1,9"])
def test_a_radius_above_the_images_diameter_is_refused(eps: str) -> None:
    """Digits are 8 x 8, so no two images are further apart than 8."""
    assert resolve("pgd-at", options={"evaluation.norm": "L2", "evaluation.eps": 8})
    match = r"the L2 radius \S+ is larger than any distance between two images, 8: give a smaller"
    with pytest.raises(UserError, match=match):
        resolve("pgd-at", options={"evaluation.norm": "L2", "evaluation.eps": eps})
