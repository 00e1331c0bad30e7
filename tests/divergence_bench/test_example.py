"""The example notebook: it runs, shows its numbers and pictures, and is committed without them."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import divergence_bench as bench

ROOT = Path(bench.__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "example.ipynb"


def test_it_is_committed_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, 4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One test of some seconds for all: a kernel is started, and two networks are evaluated."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, 4)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=240, resources=where).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [output["data"] for output in outputs if "data" in output]
    assert not [output for output in outputs if output.get("name") == "stderr"]

    # The numbers that it prints are the stored ones.
    text = "".join(output.get("text", "") for output in outputs)
    stored = bench.results(tmp_path / "results").set_index("name")
    assert list(stored.index) == ["plain", "IKL on noise"]
    for row in stored.itertuples():
        assert f"{row.run_id}: clean {row.clean:.4f} [" in text
        assert f"robust {row.robust:.4f} [" in text
    assert any("difference" in each.get("text/plain", "") for each in shown)
    assert sum("vega" in each.get("text/html", "") for each in shown) == 1
    # The bars of both evaluations were shown, and went away.
    assert [each["text/html"] for each in shown].count("") == 2
