"""Print the lower bounds of pyproject.toml as pip constraints."""

import re
import sys
import tomllib

if sys.version_info[:2] != (3, 11):
    sys.exit(
        "The oldest dependencies have wheels for the oldest Python, 3.11, only; this "
        f"is {sys.version.split()[0]}. Try: make test-oldest OLDEST_PYTHON=python3.11"
    )

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]

groups = [project["dependencies"], *project["optional-dependencies"].values()]
for requirement in sorted({line for group in groups for line in group}):
    if floor := re.match(r"([\w-]+)>=([\w.]+)", requirement):
        name, version = floor.groups()
        # The Makefile chooses torch, before anything else.
        if name != "torch":
            print(f"{name}=={version}")
    elif not requirement.startswith(project["name"] + "["):
        sys.exit(f"{requirement} has no lower bound")
