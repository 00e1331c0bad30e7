"""LaTeX of every table, with ours at both scales, compiles and fits its page."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.store.database import Database
from leaderboards import build
from leaderboards.build import field, small
from leaderboards.render.latex import PACKAGES, to_latex
from leaderboards.table import Table
from tests.leaderboards.conftest import adding_to
from tests.leaderboards.studies import adversarial_study, distillation_study

ENGINE = shutil.which("pdflatex")
HOSTILE = r"IKL & $x_1$ \input{x} #1 %"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> list[Table]:
    """Every table, each of the paper with a number of ours, and the field and small scale."""
    results = tmp_path_factory.mktemp("results")
    add_run = adding_to(results)

    def robust(title: str, left: int, **facts: Any) -> None:
        paper = {"dataset": "cifar100", "arch": "wrn-34-10", "scale": "paper", "n": 10_000}
        survived = (6600, 3500, left, left, left)
        add_run(title, survived, protocol={"eps": 8 / 255}, record=False, **paper | facts)

    for seed in (0, 1):
        for alpha, beta in ((20, 3), (12, 3), (20, 1)):
            weights = {"wmse_weight": alpha, "ce_weight": beta, "temperature": 4}
            robust("IKL", 3140 + seed, seed=seed, params=weights)
        robust("KL", 3011, seed=seed)
    robust("IKL", 3140, params={"wmse_weight": 20, "ce_weight": 3, "temperature": 2})
    robust("MART", 2900, method_title=HOSTILE)
    robust("IKL", 5700, dataset="cifar10", params={"wmse_weight": 20.0, "ce_weight": 4.0})
    robust("TRADES", 5300, dataset="cifar10")
    pairs = (
        ("cifar100", "resnet56", "resnet20"), ("cifar100", "wrn-40-2", "wrn-40-1"),
        ("cifar100", "vgg13", "vgg8"), ("cifar100", "resnet32x4", "shufflenet-v1"),
        ("imagenet", "imagenet-resnet34", "imagenet-resnet18"),
    )  # fmt: skip
    for place, (dataset, teacher, student) in enumerate(pairs):
        for seed in (0, 1):
            for title, right in (("IKL-KD", 7100), ("KD", 7050)):
                add_run(
                    title, (right + seed,), n=10_000, seed=seed, dataset=dataset, arch=student,
                    teacher=teacher, task="distillation", attacks=(), scale="paper",
                    params={"pair": place}, record=False,
                )  # fmt: skip
    assert not Database(results).rebuild().unreadable
    distillation_study(results)
    adversarial_study(results)
    return [
        *(build.table(header.number, results) for header in build.tables()),
        *(field(number, results) for number in (2, 4)),
        *small(results),
    ]


def test_there_are_numbers_of_both_scales(tables: list[Table]) -> None:
    assert all(table.has_ours for table in tables)
    assert {number.badge for table in tables for number in table.numbers} >= {"P", "R", "S"}


def test_all_tables_compile_in_one_document_without_an_overfull_box(
    tables: list[Table], tmp_path: Path
) -> None:
    if ENGINE is None:
        pytest.skip("pdflatex is not installed: Debian has it in texlive-latex-extra")
    packages = "".join(rf"\usepackage{{{name}}}" for name in PACKAGES)
    body = "\n\\clearpage\n".join(
        to_latex(table, ours=ours)
        for table in tables
        for ours in ((True, False) if table.number else (True,))
    )
    document = rf"\documentclass{{article}}{packages}" + "\n"
    (tmp_path / "tables.tex").write_text(
        f"{document}\\begin{{document}}\n{body}\\end{{document}}\n"
    )
    command = [ENGINE, "-halt-on-error", "-interaction=nonstopmode", "tables.tex"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    log = (tmp_path / "tables.log").read_text(errors="replace")
    assert ended.returncode == 0, log[-2000:]
    # Either would run over the edge of the page.
    assert "Overfull" not in log
    assert "Float too large" not in log
