"""The tutorial is run from its first cell to its last, as a reader would, in an empty folder."""

import os

import nbformat
import pytest
from nbclient import NotebookClient
from scripts import ROOT

# jupyter warns of its own files and event loops
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")


def texts(notebook) -> list[str]:
    """What each cell of code shows, errors and warnings apart."""
    shown = []
    for cell in notebook.cells:
        outputs = [o for o in cell.get("outputs", ()) if o.get("name") != "stderr"]
        parts = (o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs)
        shown += ["".join(parts)] if cell.cell_type == "code" else []
    return shown


def test_the_tutorial_runs_and_shows_what_it_shows(tmp_path, monkeypatch):
    kept = nbformat.read(ROOT / "docs/tutorial.ipynb", as_version=4)
    again = nbformat.read(ROOT / "docs/tutorial.ipynb", as_version=4)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    client = NotebookClient(again, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    one, other = texts(kept), texts(again)
    assert len(other) >= 8 and "rome on atlas" in other[1] and "facts said now" in other[3]
    for stored, now in zip(one, other, strict=True):
        assert now.split()[:3] == stored.split()[:3]  # the figures may end otherwise elsewhere
