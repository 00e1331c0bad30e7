"""Every row of the printed tables has a recipe under its table's name."""

import pandas as pd
import pytest

from harness.registry import METHODS
from leaderboards.printed import REPORTED_CSV

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
# AWP is a different method in each table, and rows of IKL on generated images print no setting.
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
    """(recipe, dataset, network) of each row."""
    frame = pd.read_csv(REPORTED_CSV, keep_default_na=False)
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


KD_TABLES = (3, 5, 7)
KD_METHODS = {"AT": "attention", "FitNet": "fitnet", "RKD": "rkd", "CRD": "crd", "OFD": "ofd"}
KD_METHODS |= {"ReviewKD": "reviewkd", "DKD": "dkd", "KD": "kd", "IKL-KD": "ikl-kd"}
SPELLED = {"mobilenetv1": "mobilenet-v1"}


def kd_rows() -> list[tuple[str, int, str, str]]:
    """(printed method, table, teacher, student), with network names as in recipes."""
    frame = pd.read_csv(REPORTED_CSV, keep_default_na=False)
    kept = frame[frame["table"].isin(KD_TABLES) & frame["metric"].str.endswith("top1")]
    found = set()
    for _, row in kept.iterrows():
        names = [str(row[column]).lower() for column in ("teacher", "student_or_arch")]
        teacher, student = (SPELLED.get(name, name) for name in names)
        if not row["method"].startswith("Delta"):
            found.add((row["method"], int(row["table"]), teacher, student))
    return sorted(found)


def test_distillation_rows_are_all_there() -> None:
    """Teacher, student and seven methods per column of Table 3, one method more in 5 and 7."""
    assert len(kd_rows()) == 9 * 2 + 10 * (6 + 5)


@pytest.mark.parametrize(("printed", "table", "teacher", "student"), kd_rows())
def test_distillation_row_has_a_recipe_with_its_networks(
    printed: str, table: int, teacher: str, student: str
) -> None:
    if printed in ("Teacher", "Student (vanilla)"):
        name = "vanilla"
        arch = teacher if printed == "Teacher" else student
        recipe = f"table{table}/{arch}"
    else:
        name, arch = KD_METHODS[printed], student
        recipe = f"table{table}/{teacher}-{student}"
        assert table in METHODS.get(name).card.tables
    overrides = METHODS.get(name).recipes[recipe]()
    assert overrides["model"]["arch"].removeprefix("imagenet-") == arch
    assert overrides["data"]["name"] == ("imagenet" if table == 3 else "cifar100")
    if name != "vanilla":
        assert overrides["teacher"]["arch"].removeprefix("imagenet-") == teacher
