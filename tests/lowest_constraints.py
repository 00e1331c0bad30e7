"""Print constraints that install the lowest supported version of every direct dependency."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
groups = [project["dependencies"], *project["optional-dependencies"].values()]
for requirement in sorted({each for group in groups for each in group}):
    if bound := re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement):
        print("{}=={}.*".format(*bound.groups()))
