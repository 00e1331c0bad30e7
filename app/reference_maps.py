"""The t-SNE maps that ship with the app, so that its page shows maps before there is any run.

They are made from two finished runs with

    python -m harness run --method ikl --set evaluation.attacks=apgd-ce
    python -m harness run --method trades --set evaluation.attacks=apgd-ce
    python -m app.reference_maps IKL_RUN TRADES_RUN

The last command reads the runs' models from ``results`` and writes ``reference_maps.json`` next to
this file.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from app.embedding import Embedding, Separation, embedded
from harness.config import eps_text
from harness.data import dataset_info
from harness.progress import Reporter
from harness.store.rundir import find_run

MAPS = Path(__file__).with_name("reference_maps.json")
CLASSES, PER_CLASS, SEED = 10, 20, 0


@dataclass(frozen=True)
class ReferenceMap:
    """One shipped map.

    Attributes:
        run: ``title``, ``dataset``, ``arch``, ``run_id`` and ``seed`` of the run.
        eps: the Linf radius of the attack.
        embedding: the map.
    """

    run: dict[str, Any]
    eps: float
    embedding: Embedding


def reference_maps() -> list[ReferenceMap]:
    """The shipped maps, in order."""
    return [_from_json(each) for each in json.loads(MAPS.read_text(encoding="utf-8"))]


def make(results: Path, names: list[str], root: str | None) -> list[ReferenceMap]:
    """Compute the maps of finished runs of one dataset, attacked at the dataset's default radius.

    Raises:
        UserError: there is no such run, or its model or images are missing.
    """
    maps = []
    for name in names:
        run = find_run(results, name)
        record = run.record
        eps = dataset_info(record["dataset"]).default_eps
        facts = {key: record.get(key) for key in ("dataset", "arch", "run_id", "seed")}
        maps.append(
            ReferenceMap(
                {"title": record["method_title"], **facts},
                eps,
                embedded(
                    str(results), run.run_id, run.trained_model.stat().st_mtime_ns, eps=eps,
                    classes=CLASSES, per_class=PER_CLASS, seed=SEED, root=root,
                ),
            )
        )  # fmt: skip
    return maps


def to_json(maps: list[ReferenceMap]) -> str:
    """The maps as JSON, one run per line, with coordinates rounded to two decimals."""
    lines = []
    for each in maps:
        found = each.embedding
        places = found.points[["x", "y"]].astype("float64").round(2)
        points = {name: places[name].tolist() for name in ("x", "y")}
        points |= {name: found.points[name].tolist() for name in ("label", "kind")}
        facts = {
            "run": each.run, "eps": each.eps, "points": points, "perplexity": found.perplexity,
            "clean": asdict(found.clean), "adversarial": asdict(found.adversarial),
            "accuracy": found.accuracy,
        }  # fmt: skip
        lines.append(json.dumps(facts))
    return "[\n" + ",\n".join(lines) + "\n]\n"


def _from_json(facts: dict[str, Any]) -> ReferenceMap:
    clean, adversarial = facts["accuracy"]
    return ReferenceMap(
        facts["run"],
        facts["eps"],
        Embedding(
            pd.DataFrame(facts["points"]),
            Separation(**facts["clean"]),
            Separation(**facts["adversarial"]),
            facts["perplexity"],
            (clean, adversarial),
        ),
    )


def main() -> None:
    """Write the maps of the runs named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m app.reference_maps", description=__doc__)
    parser.add_argument("runs", nargs="+", help="finished runs of one dataset")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--data-root", help="folder of the dataset's images")
    given = parser.parse_args()
    maps = make(given.results, given.runs, given.data_root)
    MAPS.write_text(to_json(maps), encoding="utf-8")
    for each in maps:
        silhouette = each.embedding.adversarial.silhouette
        Reporter().line(
            f"{each.run['run_id']}: Linf {eps_text(each.eps)}, silhouette {silhouette:.3f}"
        )


if __name__ == "__main__":
    main()
