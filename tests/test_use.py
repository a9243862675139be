"""docs/use.md: what it shows is run, in the order of the page, with smaller numbers."""

import re
import shlex
import shutil

import pytest
import torch
from scripts import ROOT, script  # noqa: F401
from test_readme import blocks

from edits import storage

PAGE = (ROOT / "docs/use.md").read_text(encoding="utf-8")
SMALL = {
    "[memit]": ("+settings.memit.search.steps=2", "++corpus.texts=50"),
    "-m": ("data.limit=2", "++data.variants=1", "protocol.generate=[]"),
}
"""What makes a command quick, by a word of it."""


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_commands(script, tmp_path):  # noqa: F811
    (table,) = re.findall(r"^```\n(prompt,.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "facts.csv").write_text(table)
    commands = blocks(PAGE) + re.findall(r"`(python edit\.py -m [^`]+)`", PAGE)
    assert len(commands) == 8
    for command in commands:
        python, file, *words = shlex.split(command)
        assert (python, file) == ("python", "edit.py")
        more = [each for word, each in SMALL.items() if word in words or word in command]
        quick = [] if "-m" in words else ["bystanders.limit=3"]
        run = script("edit", *words, *quick, *(setting for each in more for setting in each))
        assert run.code == 0, (command, run.err)
        keep(tmp_path)
    assert storage.about(tmp_path / "rest.safetensors")[1][0].requests[0].target == "Norway"
    assert (tmp_path / "adapter/README.md").is_file() and (tmp_path / "merged/README.md").is_file()


def keep(folder) -> None:
    """The last edit that a run made, under the names by which the page goes on with it."""
    made = sorted(folder.glob("runs/edit/*/edit.safetensors"), key=lambda p: p.stat().st_mtime)
    for name in ("edit", "a", "b"):
        shutil.copy(made[-1], folder / f"{name}.safetensors")


@pytest.mark.filterwarnings("ignore:.*max_length.*")
def test_the_python(capsys):
    first, hooks, *_ = fenced("python")
    names = {}
    exec(first, names)
    said = capsys.readouterr().out
    assert "rome on atlas" in said and "'facts said now': '1 of 1'" in said and "Norway" in said
    tokenizer = names["model"].language_model.tokenizer
    names["inputs"] = tokenizer([names["fact"].prompt], return_tensors="pt")
    names["inputs"].pop("token_type_ids", None)
    torch.manual_seed(0)
    exec(hooks, names)
    assert "Norway" in tokenizer.decode(names["ids"][0])
