"""``python edit.py task=study``, ``task=compare`` and ``task=findings``, from folder to folder."""

import json
import re
import shutil

import pytest
from scripts import call, script  # noqa: F401

STUDY = (
    *("task=study", "editors=[ft_m,ft]", "data.limit=4", "++data.variants=1"),
    *("++settings.ft_m.steps=2", "++settings.ft.steps=1", "trainer.logger=false"),
    *("study.protocols.single.generate=[]", "~study.protocols.batch"),
    *("study.protocols.sequential.generate=[]", "study.protocols.sequential.length=2"),
    *("study.protocols.sequential.texts=5", "study.protocols.sequential.checkpoints=[1]"),
    *("++trainer.enable_progress_bar=false", "++trainer.enable_model_summary=false"),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a study of two protocols."""
    folder = tmp_path_factory.mktemp("study") / "run"
    assert call("edit", *STUDY, f"hydra.run.dir={folder}") == 0
    return folder


def test_each_protocol_is_a_run_and_the_report_has_them_all(study):
    for name in ("single", "sequential"):
        assert (study / name / "results.json").is_file()
        assert (study / name / "report.html").is_file()
    page = (study / "report.html").read_text()
    assert "single edits" in page and "sequential edits" in page
    assert "one urgent fix" in page
    assert 'data-protocol="sequential"' in page
    about = json.loads((study / "single/about.json").read_text())
    assert about["data"]["records"] == 4 and "CC BY 4.0" in about["data"]["licence"]
    assert about["model"]["parameters"] > 1_000_000 and about["machines"][0]["versions"]["torch"]


def test_a_study_that_was_killed_goes_on_and_what_it_had_stays(study, script, tmp_path):  # noqa: F811
    folder = tmp_path / "again"
    shutil.copytree(study, folder)
    config = (folder / "config.yaml").read_text().replace(str(study), str(folder))
    (folder / "config.yaml").write_text(config)
    shutil.rmtree(folder / "sequential")
    (folder / "report.html").unlink()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("single/answers/*/*")}
    run = script("edit", f"resume={folder}", f"hydra.run.dir={tmp_path}/new")
    assert run.code == 0, run.err
    assert kept and {path: path.stat().st_mtime_ns for path in kept} == kept
    for name in ("single", "sequential"):
        for part in (study, folder):
            assert (part / name / "results.json").is_file()
        assert (folder / name / "results.json").read_text() == (
            study / name / "results.json"
        ).read_text()
    assert (folder / "report.html").is_file()


def test_runs_are_compared_and_findings_judged_without_a_model(study, script, tmp_path):  # noqa: F811
    for task in ("compare", "findings"):
        run = script(
            *("edit", f"task={task}", f"runs=[{study}]", "model=pretrained", "model.path=nowhere"),
            f"hydra.run.dir={tmp_path}/{task}",
        )
        assert run.code == 0, run.err
    assert "single edits" in (tmp_path / "compare/report.html").read_text()
    assert (tmp_path / "compare/config.yaml").is_file()
    assert len(json.loads((tmp_path / "findings/findings.json").read_text())) == 15


def test_a_profile_of_one_s_own_is_one_more(study, script, tmp_path):  # noqa: F811
    run = script(
        *("edit", "task=compare", f"runs=[{study}]", "+profiles.mine={speed: 0.5, memory: 0.5}"),
        f"hydra.run.dir={tmp_path}/run",
    )
    assert run.code == 0, run.err
    assert "mine" in run.out
    assert "mine" in (tmp_path / "run/report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["runs=nowhere"], "runs=nowhere: expected a list of text"),
        (["runs=[nowhere]"], "there is no folder nowhere"),
        (["runs=[{study}]", "editors=[rome]"], "this task reads runs, and takes none"),
        (["runs=[{study}]", "+profiles.mine={{charm: 1}}"], "profile mine: charm is none of the"),
        (["runs=[{study}]", "+profiles.mine={{speed: 0.5}}"], "the weights sum to 0.5; expected 1"),
        (["runs=[{study}/single,{other}]"], "have different model .* compare.mixed=true"),
    ],
)
def test_what_cannot_be_compared_is_one_line(arguments, error, study, script, tmp_path):  # noqa: F811
    other = tmp_path / "other"
    shutil.copytree(study / "single", other)
    run = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps({**run, "model": "another"}))
    arguments = [argument.format(study=study, other=other) for argument in arguments]
    run = script("edit", "task=compare", *arguments, f"hydra.run.dir={tmp_path}/run")
    assert re.search(error, run.error), run.error
    assert not (tmp_path / "run").exists()


def test_what_differs_is_shown_where_that_is_wanted(study, script, tmp_path):  # noqa: F811
    other = tmp_path / "other"
    shutil.copytree(study / "single", other)
    run = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps({**run, "records": "another"}))
    run = script(
        *("edit", "task=compare", f"runs=[{study}/single,{other}]", "compare.mixed=true"),
        f"hydra.run.dir={tmp_path}/run",
    )
    assert run.code == 0, run.err
    assert (tmp_path / "run/report.html").read_text().count("single edits") == 2
