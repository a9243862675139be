"""``python edit.py task=search``: the better settings are found, kept, and never on test."""

import json
import re
import shutil

import pytest
import yaml
from scripts import call, script  # noqa: F401

from evaluation.searching.grid import called, nested, points
from evaluation.searching.halving import Halving, Trial, rungs
from evaluation.searching.report import preset

SEARCH = (
    *("task=search", "editors=[ft_m]", "grid={steps:[1,25],lr:[0.005]}", "task.records=6"),
    *("task.first=3", "++data.variants=1"),
)


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """The folder of a search between one step of fine-tuning and twenty-five."""
    folder = tmp_path_factory.mktemp("search") / "run"
    assert call("edit", *SEARCH, f"hydra.run.dir={folder}") == 0
    return folder


def test_the_better_setting_is_found_and_the_other_asked_less(search):
    best, other = json.loads((search / "search.json").read_text())
    assert best["settings"] == {"steps": 25, "lr": 0.005}
    assert (best["records"], other["records"]) == (6, 3)
    assert best["score"] > other["score"]
    assert (search / "search.png").read_bytes().startswith(b"\x89PNG")
    assert "| 25 | 0.005 | 6 |" in (search / "search.md").read_text()


def test_the_preset_is_one_of_configs_and_says_what_it_reaches(search):
    text = (search / "preset.yaml").read_text()
    assert text.startswith("# @package editor\n# Found by task=search: ft_m, 2 settings, atlas")
    assert re.search(r"on 6 records, in percent: reliability \d+\.\d \(\d+ to \d+\)", text)
    assert yaml.safe_load(text) == {"steps": 25, "lr": 0.005}


def test_a_search_goes_on_with_what_it_asked(search, script, tmp_path):  # noqa: F811
    folder = tmp_path / "again"
    shutil.copytree(search, folder)
    trials = json.loads((folder / "trials.json").read_text())
    trials["steps=25, lr=0.005"] |= {"values": {}, "records": 0}
    trials["steps=1, lr=0.005"]["values"]["reliability"] = [1.0, 1.0, 1.0]  # not asked again
    (folder / "trials.json").write_text(json.dumps(trials))
    run = script("edit", f"resume={folder}", f"hydra.run.dir={tmp_path}/new")
    assert run.code == 0, run.err
    rows, before = (
        {row["settings"]["steps"]: row for row in json.loads((at / "search.json").read_text())}
        for at in (folder, search)
    )
    assert rows[25] == before[25]
    assert rows[1]["reliability"][0] == 1.0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["split=test"], "split=test: settings are chosen on val or train"),
        (["grid=null"], "grid=null: expected a mapping"),
        (["grid={steps:5}"], "grid.steps=5: expected a list"),
        (["grid={stepps:[5]}"], "grid: ft_m has no setting stepps; it has layers, objective, "),
        (["grid={steps:[-1]}"], "steps must be at least"),
        (["editors=[ft_m,ft]"], "task=search takes one"),
        (["task.keep=1.0"], "keep is 1.0; expected a share between 0 and 1"),
        (["task.first=200"], "first is 200; expected at most records"),
        (["task.records=x"], "task.records=x: expected a whole number"),
    ],
)
def test_a_search_that_cannot_be_is_one_line(arguments, error, script, tmp_path):  # noqa: F811
    given = {argument.partition("=")[0]: argument for argument in (*SEARCH[:3], *arguments)}
    run = script("edit", *given.values(), f"hydra.run.dir={tmp_path}/run")
    assert re.search(error, run.error), run.error


def test_points_are_all_combinations_and_nest():
    grid = {"layer": [0, 1], "search.clamp": [4]}
    assert [called(point) for point in points(grid)] == [
        "layer=0, search.clamp=4",
        "layer=1, search.clamp=4",
    ]
    assert nested({"a.b.c": 1, "a.d": 2, "e": 3}) == {"a": {"b": {"c": 1}, "d": 2}, "e": 3}


def test_rounds_grow_as_candidates_get_fewer():
    assert rungs(12, 96, 0.5) == [12, 24, 48, 96]
    assert rungs(5, 12, 0.5) == [5, 10, 12]
    assert rungs(4, 4, 0.25) == [4]


class Refusing:
    """Every record is one too many."""

    def make(self, groups):
        raise ValueError("cannot")


def test_a_candidate_that_fails_is_last_and_says_why(language_model, tmp_path):
    class Only:
        requests = ()

    trials = Halving(language_model, {"a": Refusing()}, [Only()], tmp_path).run(1, 0.5)
    assert [(t.name, t.reason, t.records, t.score) for t in trials] == [("a", "cannot", 0, -1.0)]


def test_a_score_is_the_harmonic_mean_of_the_kinds_that_are_there():
    trial = Trial("a", {"reliability": [1.0, 1.0], "unrelated": [0.0, 1.0]}, 2)
    assert trial.score == pytest.approx(2 / 3)
    assert "reliability 100.0" in preset("a search", trial, {"layer": 1})
