"""kill -9 at random moments: the same command still gives the same result, nothing lost or doubled.

The moments are drawn from seeded generators over the phases of an undisturbed run.
"""

import random
from collections import Counter
from pathlib import Path

import pytest
from forking import ForkServer

from harness.store.rundir import list_runs
from tests.faults.conftest import RUN, SIGNS, Undisturbed, assert_same_result

slow = [pytest.mark.slow, pytest.mark.timeout(3600)]


def phase_of(results: Path) -> str:
    """The phase in which a process was killed, by the files that it left."""
    for phase in reversed(SIGNS):
        if list(results.glob(SIGNS[phase])):
            return phase
    return "start"


def kill_runs(
    server: ForkServer,
    undisturbed: Undisturbed,
    folder: Path,
    kills: int,
    needed: dict[str, int],
    seed: int,
) -> None:
    """Kill runs in each phase in turn, so often and so often in each; all end as undisturbed.

    Each folder's run is killed once, and half of the time once more after it was resumed.
    """
    generator, struck, number = random.Random(seed), Counter[str](), 0
    while struck.total() < kills or any(struck[phase] < needed[phase] for phase in needed):
        results, phase = folder / str(number), list(needed)[number % len(needed)]
        number += 1
        delay = generator.uniform(0, undisturbed.seconds[phase])
        strikes = [{"delay": delay, "until": str(results / SIGNS[phase])}]
        if generator.random() < 0.5:
            strikes.append({"delay": generator.uniform(0, sum(undisturbed.seconds.values()))})
        for strike in strikes:
            ended = server.run([*RUN, "--results", str(results)], **strike)
            if ended["code"] == -9:
                struck[phase_of(results)] += 1
            else:
                assert ended["code"] == 0, ended["output"]
        server.succeed([*RUN, "--results", str(results)])
        assert_same_result(results, undisturbed)
        assert number < 4 * kills, f"the runs end before they can be killed: {struck}"
    print(f"\n{struck.total()} kills: {struck}")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_autoattack_killed_at_random_ends_with_the_same_verdicts(server, undisturbed, tmp_path):
    kill_runs(server, undisturbed, tmp_path, 50, {"evaluation": 25}, seed=3)


@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=slow)])
def test_a_run_killed_at_random_ends_as_an_undisturbed_one(kills, server, undisturbed, tmp_path):
    needed = dict.fromkeys(SIGNS, max(1, kills // 20))
    kill_runs(server, undisturbed, tmp_path, kills, needed, seed=7)


SWEEP = """
runs:
- {method: trades}
- {method: trades, name: diverges, set: {training.optimizer.lr: 1.0e+9}}
- {method: ikl}
- {method: ikl, name: ikl again}
- {method: kl}
set: {training.epochs: 2, training.batch_size: 32, training.monitor.every: 0, data.train_limit: 96,
      evaluation.limit: 12, evaluation.attacks: [apgd-ce], evaluation.workers: 1}
"""
WIDE = "import os; os.environ['COLUMNS'] = '140'"


def test_a_sweep_killed_twice_finishes_and_runs_nothing_twice(server, tmp_path):
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    command = ["sweep", str(tmp_path / "sweep.yaml"), "--results", str(tmp_path), "--device", "cpu"]

    def killed_after_an_epoch_of(method: str) -> dict[str, int]:
        until = str(tmp_path / f"runs/{method}-*/epochs.jsonl")
        assert server.run(command, until=until)["code"] == -9
        return written()

    def written() -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in tmp_path.rglob("model.pt")}

    first, second = killed_after_an_epoch_of("ikl"), killed_after_an_epoch_of("kl")
    ended = server.run(command, prepare=WIDE)
    assert ended["code"] == 1, ended["output"]
    last = written()
    assert (len(first), len(second), len(last)) == (1, 2, 3)
    for before in (first, second):
        assert before.items() <= last.items()
    # Plan, table, comparison and the failure, in this order.
    out = ended["output"]
    assert out.index("4 runs: 2 done") < out.index("n = 12, partial")
    assert out.index("McNemar p") < out.rindex("failed: trades-")
    assert "the loss is not finite" in out
    runs = list_runs(tmp_path)
    assert sorted(run.record["status"] for run in runs) == ["error", *["success"] * 3]
    for run in runs:
        epochs = [record["epoch"] for record in run.epochs()]
        assert epochs == list(range(1, len(epochs) + 1))
