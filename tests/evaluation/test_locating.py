"""What causal tracing found: rows with intervals, tables, a figure."""

import io
import json

import pytest
import torch
from matplotlib.image import imread
from rich.console import Console

from datamodules.records import Request
from evaluation.locating import report as locating
from evaluation.locating.traces import Trace

ROLES = ("first subject token", "last subject token", "last token")
RUN = {
    "model": "m",
    "data": "d",
    "split": "val",
    "facts": 3,
    "clean": 0.75,
    "corrupted": 0.125,
    "window": 2,
    "layer": 1,
    "role": "last subject token",
}
NAN = float("nan")
EFFECTS = {  # [facts, blocks, roles]
    "hidden": torch.tensor([[[0.5, 0.25, NAN]] * 2, [[0.5, 0.75, NAN]] * 2, [[0.5, NAN, NAN]] * 2]),
    "mlp": torch.tensor([[[0.0, 0.125, 0.5], [0.0, 0.5, -0.25]]] * 3),
}


@pytest.fixture
def found():
    return locating.rows(EFFECTS, ROLES)


def row(found, kind, role, block):
    [one] = [r for r in found if (r["kind"], r["role"], r["block"]) == (kind, role, block)]
    return one


def test_a_row_is_a_mean_over_the_facts_that_have_such_a_token(found):
    one = row(found, "hidden", "last subject token", 1)
    assert (one["effect"], one["facts"]) == (0.5, 2)
    assert (one["low"], one["high"]) == (0.25, 0.75)
    same = row(found, "mlp", "last token", 1)
    assert (same["low"], same["effect"], same["high"], same["facts"]) == (-0.25, -0.25, -0.25, 3)


def test_there_is_no_row_for_a_role_that_no_fact_has(found):
    assert {r["role"] for r in found if r["kind"] == "hidden"} == set(ROLES[:2])
    assert len(found) == 2 * 2 + 2 * 3


def test_files_are_written(found, tmp_path):
    fact = Request("Malmö is in", "Malmö", "Japan", "Sweden")
    traces = [Trace(fact, ["Malmö", " is"], (0, 0), 0.75, 0.125, {}) for _ in range(2)]
    locating.write(tmp_path, RUN, found, traces)
    names = {"facts.jsonl", "locating.json", "locating.md", "locating.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    lines = (tmp_path / "facts.jsonl").read_text(encoding="utf-8").splitlines()
    assert "Malmö" in lines[0]
    assert [json.loads(line) for line in lines] == [trace.line() for trace in traces]
    kept = json.loads((tmp_path / "locating.json").read_text())
    assert kept == {**RUN, "rows": found}
    text = (tmp_path / "locating.md").read_text()
    assert "# m · d val · 3 facts · p(answer) 0.750, under noise 0.125" in text
    assert "Recommended layer: 1" in text
    assert "## feed-forward outputs, 2 blocks together" in text
    assert "50.0 (25.0 to 75.0)" in text
    assert imread(tmp_path / "locating.png").shape[2] == 4


def test_the_figure_has_a_darkest_cell_and_frames_the_recommended_one(found):
    framed, bare = (
        imread(io.BytesIO(locating.picture({**RUN, "layer": layer}, found))) for layer in (1, None)
    )
    assert framed.shape == bare.shape
    differs = (framed != bare).any(2)
    assert 0 < differs.mean() < 0.05  # a frame's lines
    assert bare[..., :3].min() < 0.3
    assert locating.picture(RUN, found) == locating.picture(RUN, found)


def test_without_feed_forward_outputs_nothing_is_recommended(found):
    run = {**RUN, "layer": None, "role": None}
    hidden = [r for r in found if r["kind"] == "hidden"]
    assert "No recommended layer" in locating.markdown(run, hidden)
    assert len(locating.picture(run, hidden)) > 1000


def test_the_table_shows_percentage_points(found):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(locating.table(RUN, found))
    text = console.export_text()
    lines = text.splitlines()
    assert any(line.split() == ["mlp", "first", "subject", "token", "0.0", "0.0"] for line in lines)
    assert any(line.split() == ["last", "token", "50.0", "-25.0"] for line in lines)
    assert "Recommended layer: 1" in " ".join(text.split())
