"""Start the app's server."""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import UserError

MAIN = Path(__file__).with_name("main.py")
RESULTS_VARIABLE = "HARNESS_RESULTS"


def serve(results: Path, *, port: int, host: str) -> None:
    """Serve the app until it is interrupted.

    Theme and privacy settings come from ``.streamlit/config.toml`` next to ``main.py``, whatever
    the working directory is.

    Raises:
        UserError: the results are a file, or Streamlit is not installed.
    """
    if results.is_file():
        raise UserError(f"{results} is a file: give --results the folder that holds the runs")
    try:
        from streamlit.web import cli
    except ImportError as error:
        raise UserError(
            f"the app needs packages that are not installed ({error.name}): "
            "pip install 'divergence-bench[app]'"
        ) from error
    os.environ[RESULTS_VARIABLE] = str(results.resolve())
    # Options override config files and environment variables, so none can turn on usage reports.
    options = {
        "server.address": host,
        "server.port": port,
        "server.headless": "true",
        "browser.gatherUsageStats": "false",
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    cli.main(["run", str(MAIN), *arguments], prog_name="streamlit", standalone_mode=False)
