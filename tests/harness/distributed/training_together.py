"""Trains the runs of a file of configurations, in all processes that were started together."""

import sys
from pathlib import Path

from harness.config import RunConfig
from harness.distributed.group import process_group
from harness.experiment.runner import run, run_worker
from harness.progress import Reporter
from harness.store.files import read_json

with process_group("cpu") as processes:
    if processes.first:
        for settings in read_json(Path(sys.argv[1])):
            run(RunConfig.model_validate(settings), Reporter(quiet=True), processes=processes)
        processes.send(None)
    else:
        run_worker(processes)
