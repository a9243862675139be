"""docs/data.md shows what the readers find in the files, and nothing else."""

import runpy
import sys

from scripts import ROOT


def test_the_page_is_what_the_command_prints(shared, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["data_counts.py", str(shared / "data")])
    runpy.run_path(str(ROOT / "benchmarks" / "data_counts.py"), run_name="__main__")
    printed = capsys.readouterr().out
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert page.endswith(printed)
