"""Started by torchrun: the runs of a file of configurations, in as many processes as there are."""

import sys
from pathlib import Path

from harness.config import RunConfig
from harness.distributed.group import together
from harness.experiment.runner import follow, run
from harness.progress import Reporter
from harness.store.files import read_json

with together("cpu") as processes:
    if processes.first:
        for settings in read_json(Path(sys.argv[1])):
            run(RunConfig.model_validate(settings), Reporter(quiet=True), processes=processes)
        processes.tell(None)
    else:
        follow(processes)
