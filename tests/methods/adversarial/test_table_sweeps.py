"""The ablation recipes: sweeps that change only the printed settings."""

import pytest

from harness.experiment.resolve import resolve
from harness.registry import METHODS

IKL = METHODS.get("ikl")
SWEPT = ("params.wmse_weight", "params.ce_weight", "params.temperature")


def settings(recipe: str) -> tuple[float, float, float]:
    params = resolve("ikl", recipe=recipe).params
    return params["wmse_weight"], params["ce_weight"], params["temperature"]


@pytest.mark.parametrize(
    ("table", "temperature", "printed"),
    [
        (6, 4, {(12, 3), (16, 3), (20, 3), (24, 3), (20, 1), (20, 2), (20, 4)}),
        (8, 4, {(12, 3), (16, 3), (20, 3), (24, 3), (20, 1), (20, 2), (20, 4)}),
        (9, 2, {(15, 3), (18, 3), (20, 3), (24, 3), (20, 2), (20, 4), (20, 5)}),
    ],
)
def test_a_sweep_holds_the_printed_settings_under_their_names(
    table: int, temperature: float, printed: set[tuple[int, int]]
) -> None:
    names = {name for name in IKL.recipes if name.startswith(f"table{table}/")}
    assert names == {f"table{table}/ikl-a{a}-b{b}" for a, b in printed}
    for name in names:
        a, b = (int(part[1:]) for part in name.split("-")[1:])
        assert settings(name) == (a, b, temperature)


def test_a_note_names_the_table_that_prints_its_numbers() -> None:
    """Table 8 prints no APGD-T accuracy; Table 6 does, for the same row."""
    own, other = (IKL.recipe_notes[f"table{table}/ikl-a20-b1"] for table in (6, 8))
    assert "30.66 for APGD-T, which is impossible" in own
    assert "30.66 for APGD-T (Table 6, same row), which is impossible" in other


def test_rows_that_print_the_same_numbers_are_the_same_run() -> None:
    best = {"table1/ikl", "table2/ikl-a20-b3", "table6/ikl-a20-b3", "table8/ikl-a20-b3", "cifar100"}
    assert len({resolve("ikl", recipe=name).run_id for name in best}) == 1
    second = [resolve("ikl", recipe=f"table{n}/ikl-a20-b4").run_id for n in (2, 9, 8)]
    assert second[0] == second[1] != second[2]


@pytest.mark.parametrize("table", [1, 2, 6, 8, 9])
def test_only_the_swept_settings_differ_from_the_data_sets_recipe(table: int) -> None:
    base = resolve("ikl", recipe="cifar100").model_dump()
    for name in IKL.recipes:
        if name.startswith(f"table{table}/ikl-a") or name == "table1/ikl":
            row = resolve("ikl", recipe=name).model_dump()
            for path in SWEPT:
                section, key = path.split(".")
                row[section][key] = base[section][key]
            assert row | {"recipe": "cifar100"} == base
