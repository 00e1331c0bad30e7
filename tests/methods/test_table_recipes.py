"""Every adversarial-training row of the printed tables has a recipe under its table's name."""

import pandas as pd
import pytest

from harness.registry import METHODS
from leaderboards.reported import load_reported

TABLES = (1, 2, 4, 6, 8, 9)
BY_INDEX = {"(a)": "kl", "(b)": "dkl", "(c)": "dkl-ba", "(d)": "dkl-ba-const", "(e)": "ikl"}
BY_CITATION = {
    "[26]": "lbgat",
    "[27]": "las-at",
    "[40]": "acat",
    "[63]": "pgd-at",
    "[61]": "proxy",
    "[59]": "score",
    "[62]": "rebuffi",
    "[37]": "gowal",
    "[38]": "wang-dm",
}
# AWP is another method in each table, and IKL on generated images prints no setting.
AWP = {2: "at-awp", 4: "trades-awp"}


def recipe_of(row: "pd.Series[object]") -> str:
    table, citation = int(str(row["table"])), str(row["citation"])
    settings = dict(part.split("=") for part in str(row["setting"]).split(";") if part)
    if table == 1:
        return f"table1/{BY_INDEX[settings['index']]}"
    if citation == "[25]":
        return f"table{table}/{AWP[table]}"
    name = BY_CITATION.get(citation, "ikl")
    size = str(row["augmentation"]).removesuffix(" Generated Data")
    if size != "Basic":
        return f"table{table}/{name}-{size.lower()}"
    if name == "ikl" and table != 4:
        return f"table{table}/ikl-a{settings['alpha']}-b{settings['beta']}"
    return f"table{table}/{name}"


def rows() -> list[tuple[str, str, str]]:
    """(recipe, data set, network) of each row."""
    frame = load_reported()
    kept = frame[frame["table"].isin(TABLES) & (frame["metric"] == "clean")]
    found = set()
    for _, row in kept.iterrows():
        dataset = row["dataset"].lower().replace("-", "")
        found.add((recipe_of(row), dataset, row["student_or_arch"].lower()))
    return sorted(found)


def test_rows_are_named_once() -> None:
    assert len({recipe for recipe, _, _ in rows()}) == len(rows()) == 53


@pytest.mark.parametrize(("recipe", "dataset", "arch"), rows())
def test_row_has_one_recipe_on_its_data_and_network(recipe: str, dataset: str, arch: str) -> None:
    owners = [name for name in METHODS.names() if recipe in METHODS.get(name).recipes]
    assert len(owners) == 1, f"{recipe} is a recipe of {owners}"
    overrides = METHODS.get(owners[0]).recipes[recipe]()
    assert overrides["data"]["name"] == dataset
    assert overrides["model"]["arch"].removesuffix("-silu") == arch
