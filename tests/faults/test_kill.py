"""kill -9 at random moments: the same command still gives the same result, nothing lost or doubled.

Kills are spread evenly over training, evaluation, storing and indexing, at moments that seeded
generators draw. Some runs work beside a program that holds the database, some on a full disk.
"""

import os
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import duckdb
import pytest
from forking import ForkServer

from harness.store.connection import write_connection
from harness.store.database import Database
from harness.store.rundir import list_runs
from tests.faults.conftest import RUN, Undisturbed, assert_same_result
from tests.faults.staging import KILLED, STAGES, stage_of, staging

slow = [pytest.mark.slow, pytest.mark.timeout(7200)]
KILLS_A_RUN = 8
# Of every so many runs, one has a held database and one a full disk.
TROUBLE_EVERY = 6


@dataclass
class Tally:
    """What was killed where, over all victims at work side by side."""

    wanted: int
    struck: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    lock: Lock = field(default_factory=Lock)

    def next_run(self, trouble: str) -> int | None:
        """The number of the next run; None where there have been kills enough."""
        with self.lock:
            if self.struck.total() >= self.wanted and min(self.counts()) > 0:
                return None
            self.runs[trouble] += 1
            assert self.runs.total() < 2 * self.wanted + 10, f"runs end unharmed: {self.struck}"
            return self.runs.total()

    def counts(self) -> list[int]:
        return [self.struck[stage] for stage in STAGES]

    def text(self) -> str:
        stages = ", ".join(f"{count} in {stage}" for stage, count in self.struck.most_common())
        runs = ", ".join(f"{count} {trouble}" for trouble, count in self.runs.items())
        return f"{self.struck.total()} kills: {stages}; of {self.runs.total()} runs ({runs})"


@contextmanager
def held(results: Path) -> Iterator[None]:
    """Another program, this one, reads the database all the time."""
    database = Database(results)
    results.mkdir()
    with write_connection(database.path, 1):
        pass
    with duckdb.connect(str(database.path), read_only=True):
        yield


@contextmanager
def full_disk(results: Path, kilobytes: int) -> Iterator[None]:
    """The folder is a file system of its own, with room for so much."""
    results.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(results)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield
    finally:
        # What comes after needs room; the test's end unmounts.
        subprocess.run(["mount", "-o", "remount,size=1g", str(results)], check=True)


def can_mount(folder: Path) -> bool:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True


def kill_one_run(
    server: ForkServer,
    undisturbed: Undisturbed,
    results: Path,
    generator: random.Random,
    stages: tuple[str, ...],
    tally: Tally,
    wait_s: float,
) -> None:
    """Kill a run several times, each time resuming it; stages that are over are not aimed at."""
    for number in range(KILLS_A_RUN):
        (run,) = list_runs(results) or [None]
        over = {"training"} if run and run.model_path.exists() else set()
        possible = [stage for stage in stages if stage not in over]
        with tally.lock:
            target = min(possible, key=lambda stage: (tally.struck[stage], generator.random()))
        delay = generator.uniform(0, undisturbed.seconds[target])
        log = results.with_name(f"{results.name}-{number}.stages")
        call = generator.choice([1, 2]) if target == "indexing" else 1
        prepare = staging(log, target, delay, call=call, wait_s=wait_s)
        ended = server.run([*RUN, "--results", str(results)], prepare=prepare)
        if ended["code"] == KILLED:
            with tally.lock:
                tally.struck[stage_of(log)] += 1
        elif ended["code"] == 0:
            return
        else:
            assert ended["code"] == 2, ended["output"]
            assert "space" in ended["output"], ended["output"]
            assert "Traceback" not in ended["output"]


def kill_runs(
    servers: list[ForkServer],
    undisturbed: Undisturbed,
    folder: Path,
    kills: int,
    seed: int,
    stages: tuple[str, ...] = STAGES,
) -> None:
    """Kill runs side by side, one a server, so often in all; each ends as the undisturbed one."""
    tally, mounts = Tally(kills), can_mount(folder / "probe")
    needed = sum(path.stat().st_size for path in undisturbed.results.rglob("*") if path.is_file())

    def work(server: ForkServer, seed: int) -> None:
        generator, mine = random.Random(seed), 0
        while True:
            mine += 1
            trouble = {1: "beside a reader", 2: "on a full disk"}.get(mine % TROUBLE_EVERY, "plain")
            trouble = "plain" if trouble == "on a full disk" and not mounts else trouble
            number = tally.next_run(trouble)
            if number is None:
                return
            results = folder / str(number)
            with ExitStack() as stack:
                if trouble == "on a full disk":
                    stack.callback(subprocess.run, ["umount", str(results)], check=True)
                    room = generator.randint(16, needed // 1024)
                    with full_disk(results, room):
                        kill_one_run(server, undisturbed, results, generator, stages, tally, 5.0)
                elif trouble == "beside a reader":
                    with held(results):
                        kill_one_run(server, undisturbed, results, generator, stages, tally, 0.05)
                kill_one_run(server, undisturbed, results, generator, stages, tally, 5.0)
                server.succeed([*RUN, "--results", str(results)])
                assert_same_result(results, undisturbed)

    with ThreadPoolExecutor(len(servers)) as pool:
        for done in [pool.submit(work, *pair) for pair in zip(servers, seeds(seed), strict=False)]:
            done.result()
    print(f"\n{tally.text()}")


def seeds(seed: int) -> range:
    return range(seed, seed + 1000)


@pytest.fixture
def servers(
    kills: int, server: ForkServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[ForkServer]]:
    """Processes to fork from, of which each has one victim at a time: two where kills are many."""
    if kills < 100:
        yield [server]
        return
    second = ForkServer(tmp_path_factory.mktemp("second"))
    yield [server, second]
    second.close()


@pytest.mark.parametrize("kills", [50], ids=["50"])
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_autoattack_killed_at_random_ends_with_the_same_verdicts(
    kills, servers, undisturbed, tmp_path
):
    kill_runs(servers, undisturbed, tmp_path, kills, seed=3, stages=("evaluation",))


# KILLS in the environment is another number, for a machine that others use.
MANY = int(os.environ.get("KILLS", "1000"))


@pytest.mark.parametrize("kills", [6, pytest.param(MANY, marks=slow)])
def test_a_run_killed_at_random_ends_as_an_undisturbed_one(kills, servers, undisturbed, tmp_path):
    kill_runs(servers, undisturbed, tmp_path, kills, seed=7)


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
