"""The code of the README runs."""

import pathlib
import re

import pytest

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_python_blocks_run(capsys):
    pytest.importorskip("xgboost")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, str(README), "exec"), {})
    boosted, searched = capsys.readouterr().out.splitlines()
    assert float(boosted) > 0.6
    assert float(searched.split()[-1]) > 0.6


def test_both_commands_are_targets():
    makefile = README.with_name("Makefile").read_text("utf-8")
    for command in re.findall(r"^make (\S+)", README.read_text("utf-8"), re.M):
        assert re.search(rf"^{command}:", makefile, re.M)
