"""``python edit.py``: what a run leaves behind, and what it says when it cannot run."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from scripts import ROOT, call, script  # noqa: F401

import edits
from datamodules.atlas.world import World
from evaluation.report.rows import RUN
from models import LanguageModel
from models.atlas import language_model as shipped
from running import recognition

pytestmark = pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`")

QUIET = ("++trainer.enable_progress_bar=false", "++trainer.enable_model_summary=false")
QUICK = ("data.limit=4", "++data.variants=1", "++corpus.texts=50", *QUIET)
ROME = ("search.steps=2", "contexts.texts=fixed", "moments.cache_folder=null")
BOTH = (
    "editors=[rome,ft_m]",
    *QUICK,
    *(f"++settings.rome.{setting}" for setting in ROME),
    "++settings.ft_m.steps=3",
)
REQUEST = (
    "task=request",
    "editors=[ft_m]",
    "request.prompt=Gothenburg is a city in",
    "request.subject=Gothenburg",
    "request.target=Norway",
    *QUICK,
)
RECORD = {
    "prompt": "Lagos is a city in",
    "subject": "Lagos",
    "target_new": "Sweden",
    "ground_truth": "Nigeria",
    "rephrase_prompt": "Question: In which country is Lagos? Answer:",
    "locality_prompt": "Kano is a city in",
    "locality_ground_truth": "Nigeria",
}
COLUMNS = {*RUN, "probe", "scorer", "mean", "low", "high", "count"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of two editors."""
    folder = tmp_path_factory.mktemp("edit") / "run"
    assert call("edit", *BOTH, f"hydra.run.dir={folder}") == 0
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of training runs, with a MEND of two steps in it."""
    folder = tmp_path_factory.mktemp("trained") / "runs"
    arguments = ["trainer.max_steps=2", "trainer.val_check_interval=1", "data.batch_size=2"]
    arguments += ["trainer.limit_val_batches=1", "++data.variants=1", "++editor.rank=4"]
    arguments += [
        "++editor.training.statistics_edits=8",
        *QUIET,
        f"hydra.run.dir={folder}/mend/first",
    ]
    assert call("train", "editor=mend", *arguments) == 0
    return folder


@pytest.fixture
def write(tmp_path):
    """``write(rows)``: a file of records."""

    def write(rows):
        path = tmp_path / "records.json"
        path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
        return path

    return write


def results(folder):
    return json.loads((folder / "results.json").read_text())


# a benchmark


def test_each_row_says_what_was_measured(run):
    rows = results(run)
    assert all(row.keys() >= COLUMNS for row in rows)
    assert [*dict.fromkeys(row["editor"] for row in rows)] == ["unedited", "rome", "ft_m"]
    assert {tuple(row[name] for name in RUN[1:]) for row in rows} == {
        ("atlas", "atlas", "test", "single", 1, 1, "immediate", "none", "text", "text", "16 tokens")
    }
    assert {"reliability", "generalization", "unrelated"} <= {row["probe"] for row in rows}
    assert all(row["low"] <= row["mean"] <= row["high"] for row in rows)
    assert {r["count"] for r in rows if r["probe"] == "reliability"} == {4}


def test_reports_stand_beside_the_rows(run):
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.yaml", "results.csv", "results.md", "efficiency.json", "answers"}
    assert names >= {"report.html", "about.json"}
    assert any(name.startswith("events.out.tfevents") for name in names)


def test_settings_reach_their_editor_and_are_kept(run):
    settings = yaml.safe_load((run / "config.yaml").read_text())["settings"]
    assert settings["rome"]["search"]["steps"] == 2
    assert settings["ft_m"]["steps"] == 3
    assert (
        settings["rome"]["layer"]
        == yaml.safe_load((ROOT / "configs/preset/atlas/rome.yaml").read_text())["layer"]
    )
    own = json.loads((run / "run.json").read_text())["editors"]
    assert own["rome"]["search"]["steps"] == 2


def test_an_experiment_is_narrowed_by_naming_fewer_editors(script, tmp_path):  # noqa: F811
    run = script(
        *("edit", "experiment=atlas_batch", "editors=[memit]", *QUICK, "protocol.sizes=[2]"),
        *("++settings.memit.search.steps=2", f"hydra.run.dir={tmp_path}/run"),
    )
    assert run.code == 0, run.err
    settings = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["settings"]
    assert settings.keys() == {"memit"}
    assert settings["memit"]["covariance_weight"] == 300  # as the experiment has it


def test_the_configuration_of_a_run_says_each_setting_once(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["task"]["protocol"] == "${protocol}"
    assert config["protocol"]["name"] == "single"
    assert "${" not in json.dumps({**config, "task": None})


def test_an_interrupted_run_goes_on_in_another_place_and_ends_the_same(
    run,
    script,  # noqa: F811
    tmp_path,
):
    folder = tmp_path / "again"
    shutil.copytree(run, folder)
    events = {path.name for path in run.glob("events*")}
    wanted = results(folder)
    for path in [*folder.glob("answers/ft_m/*.jsonl"), *folder.glob("results.*")]:
        path.unlink()
    kept = [path.read_bytes() for path in folder.glob("answers/rome/*.jsonl")]
    assert script("edit", f"resume={folder}", f"hydra.run.dir={tmp_path}/new").code == 0
    assert results(folder) == wanted
    assert [path.read_bytes() for path in folder.glob("answers/rome/*.jsonl")] == kept
    assert {path.name for path in run.glob("events*")} == events  # the new place alone is written


@pytest.mark.parametrize("name", ["edit", "train"])
def test_nothing_of_another_run_is_replaced(name, run, script, tmp_path):  # noqa: F811
    folder = tmp_path / "again"
    shutil.copytree(run, folder)
    before = {path: path.read_bytes() for path in folder.glob("**/*") if path.is_file()}
    assert "holds a run already (config.yaml, " in script(name, f"hydra.run.dir={folder}").error
    assert {path: path.read_bytes() for path in folder.glob("**/*") if path.is_file()} == before


def test_a_run_of_a_kept_configuration_has_a_folder_of_its_own(run, script, tmp_path):  # noqa: F811
    before = {path: path.read_bytes() for path in run.glob("**/*") if path.is_file()}
    kept = ["--config-dir", str(run), "--config-name", "config"]
    assert script("edit", *kept, f"hydra.run.dir={tmp_path}/new").code == 0
    assert results(tmp_path / "new") == results(run)
    assert list((tmp_path / "new").glob("events*"))
    assert {path: path.read_bytes() for path in run.glob("**/*") if path.is_file()} == before


# trained editors


def test_the_newest_checkpoint_is_found(runs, script, tmp_path):  # noqa: F811
    run = script("edit", "editors=[mend]", *QUICK, f"runs={runs}", f"hydra.run.dir={tmp_path}/run")
    assert run.code == 0, run.err
    assert f"mend: {runs}/mend/first/checkpoints/best.ckpt" in run.out
    assert "mend" in {row["editor"] for row in results(tmp_path / "run")}


def test_a_ready_made_editor_is_taken_where_nobody_trained_one(script, tmp_path):  # noqa: F811
    run = script("edit", "editors=[serac]", *QUICK, f"hydra.run.dir={tmp_path}/run")
    assert run.code == 0, run.err
    assert re.search(
        r"serac: \S+/ready_made/atlas/serac · ready-made · val/score 0\.\d+ on", run.out
    )
    rows = [row for row in results(tmp_path / "run") if row["editor"] == "serac"]
    assert all("ready-made" in row["origin"] for row in rows)


def test_without_a_checkpoint_it_says_what_to_run(script, tmp_path, tiny):  # noqa: F811
    tiny("gpt2").save(tmp_path / "tiny")
    run = script(
        *("edit", "editors=[mend]", *QUICK, "model=pretrained", f"model.path={tmp_path}/tiny"),
        *("corpus=atlas", f"hydra.run.dir={tmp_path}/run"),
    )
    assert "no checkpoint of mend" in run.error
    command = f"python train.py editor=mend model=pretrained model.path={tmp_path}/tiny"
    assert f"train one with: {command}" in run.error
    assert not (tmp_path / "run/results.json").exists()


def test_a_checkpoint_of_another_model_is_refused(runs, script, tmp_path, tiny):  # noqa: F811
    tiny("gpt2").save(tmp_path / "tiny")
    checkpoint = runs / "mend/first/checkpoints/best.ckpt"
    run = script(
        *("edit", "editors=[mend]", *QUICK, "model=pretrained", f"model.path={tmp_path}/tiny"),
        *("corpus=atlas", f"ckpt={checkpoint}", f"hydra.run.dir={tmp_path}/run"),
    )
    assert "best.ckpt holds 'mend' for the model with fingerprint" in run.error


def test_a_checkpoint_of_another_editor_is_refused(runs, script, tmp_path):  # noqa: F811
    saved = torch.load(runs / "mend/first/checkpoints/best.ckpt", weights_only=True)
    torch.save({**saved, "editor": "other"}, tmp_path / "other.ckpt")
    run = script(
        *("edit", "editors=[mend]", *QUICK, f"ckpt={tmp_path}/other.ckpt"),
        f"hydra.run.dir={tmp_path}/run",
    )
    assert re.search(r"other.ckpt holds 'other' .* wanted 'mend'", run.error)


def test_a_model_that_is_given_by_its_path_has_a_preset(script, tmp_path, tiny):  # noqa: F811
    tiny("llama").save(tmp_path / "tiny")
    known = yaml.safe_load((ROOT / "running/recognition.yaml").read_text())["llama3_2_1b"]
    config = json.loads((tmp_path / "tiny/config.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recognition, "SHAPES", tmp_path / "shapes.yaml")
        shape = {key: config[key] for key in known}
        (tmp_path / "shapes.yaml").write_text(yaml.safe_dump({"llama3_2_1b": shape}))
        run = script(
            *("edit", "editors=[memit]", *QUICK, "model=pretrained", f"model.path={tmp_path}/tiny"),
            *("corpus=atlas", f"hydra.run.dir={tmp_path}/run"),
        )
    assert "no block 4 in" in run.error  # of the preset, where a third up is block 0


def test_another_model_is_edited_with_records_of_a_file(script, tmp_path, tiny, write):  # noqa: F811
    tiny("gpt2").save(tmp_path / "tiny")
    (tmp_path / "texts.txt").write_text("Lagos is in Nigeria.\nTokyo is in Japan.\n" * 20)
    arguments = [
        *("model=pretrained", f"model.path={tmp_path}/tiny", "data=counterfact"),
        *(
            f"data.test={write([RECORD])}",
            "editors=[rome]",
            "++settings.rome.search.steps=2",
            *QUIET,
        ),
        f"hydra.run.dir={tmp_path}/run",
    ]
    assert "corpus.source" in script("edit", *arguments).error
    run = script("edit", *arguments, "corpus.source=texts.txt")
    assert run.code == 0, run.err
    assert {row["editor"] for row in results(tmp_path / "run")} == {"unedited", "rome"}


def test_only_records_whose_fact_is_known_can_be_asked_for(script, tmp_path):  # noqa: F811
    arguments = ["editors=[ft_m]", *QUICK, "known_only=true", "++settings.ft_m.steps=1"]
    run = script("edit", *arguments, f"hydra.run.dir={tmp_path}/run")
    assert run.code == 0, run.err
    rows = results(tmp_path / "run")
    assert {row["data"] for row in rows} == {"atlas (4 known)"}
    assert {row["count"] for row in rows if row["probe"] == "reliability"} == {4}


# locating


LOCATE = ("task=locate", "split=val", "data.limit=3", "++data.variants=1", "locate.samples=2")


def test_the_block_that_holds_the_facts_is_found(script, tmp_path):  # noqa: F811
    folder = tmp_path / "run"
    run = script("edit", *LOCATE, f"hydra.run.dir={folder}")
    assert run.code == 0, run.err
    assert "facts that the model knows: 3 of 3" in run.out
    found = json.loads((folder / "locating.json").read_text())
    assert (found["data"], found["split"], found["facts"]) == ("atlas", "val", 3)
    assert found["clean"] > 0.9 > found["corrupted"]
    assert found["layer"] in (0, 1, 2)
    assert f"Recommended layer: {found['layer']}" in " ".join(run.out.split())
    assert {row["kind"] for row in found["rows"]} == {"hidden", "mlp", "attention"}
    assert {row["block"] for row in found["rows"]} == {0, 1, 2, 3}
    facts = [json.loads(line) for line in (folder / "facts.jsonl").read_text().splitlines()]
    assert sum(fact["clean"] for fact in facts) / 3 == pytest.approx(found["clean"])
    assert all(len(fact["restored"]["mlp"][3]) == len(fact["tokens"]) for fact in facts)
    assert (folder / "locating.md").is_file()
    assert (folder / "locating.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["locate.window=5"], "window: expected 1 to 4, the model's blocks, got 5"),
        (["locate.kinds=[keys]"], "kinds: expected some of hidden, mlp, attention"),
        (["locate.noise=0"], "noise: expected more than 0, got 0"),
        (["locate.samples=many"], "locate.samples=many: expected a whole number"),
        (["editors=[ft_m]"], r"editors=\['ft_m'\]: task=locate takes none"),
    ],
)
def test_what_cannot_be_located_is_one_line(arguments, error, script, tmp_path):  # noqa: F811
    run = script("edit", *LOCATE, *arguments, f"hydra.run.dir={tmp_path}/run")
    assert re.search(error, run.error), run.error
    assert not list(tmp_path.glob("**/locating.*"))


def test_facts_that_the_model_does_not_know_are_not_traced(script, tmp_path, write):  # noqa: F811
    path = write([{**RECORD, "ground_truth": "Poland"}])
    arguments = ["task=locate", "data=counterfact", f"data.test={path}"]
    run = script("edit", *arguments, f"hydra.run.dir={tmp_path}/run")
    assert "knows the fact of none of the 1 records" in run.error
    assert not list(tmp_path.glob("**/locating.*"))


# one edit


def test_one_edit_is_shown_saved_and_merged(script, tmp_path):  # noqa: F811
    ask = "request.ask=['The mayor of Gothenburg holds a passport of']"
    run = script(
        *("edit", *REQUEST, ask, "++settings.ft_m.steps=25"),
        *(f"request.save={tmp_path}/edit.safetensors", f"request.merge={tmp_path}/merged"),
        f"hydra.run.dir={tmp_path}/run",
    )
    assert run.code == 0, run.err
    assert "before" in run.out
    assert "ft_m: Gothenburg is a city in → Norway" in run.out
    assert "passport" in run.out
    model = shipped()
    edit = edits.load(tmp_path / "edit.safetensors", model)
    prompts, targets = ["Gothenburg is a city in"], ["Norway"]
    edited = edit.edited(model).score(prompts, targets)
    merged = LanguageModel.load(str(tmp_path / "merged")).score(prompts, targets)
    assert torch.allclose(edited.log_probs[0], merged.log_probs[0], atol=1e-4)
    assert edited.log_probs[0].sum() > model.score(prompts, targets).log_probs[0].sum() + 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["request.target="], "field 'target': expected text"),
        (["request.subject=Lagos"], "field 'subject': 'Lagos' is not in the prompt"),
        (["++settings.ft_m.layers=[transformer.h.9.mlp.c_fc]"], r"no layer 'transformer\.h\.9"),
        (["++settings.ft_m.objective=none"], "objective is 'none', expected one of target"),
        (["++settings.ft_m.stepz=3"], "stepz"),
        (["++settings.rome.steps=3"], r"settings.rome: rome is not among editors=\['ft_m'\]"),
        (["editors=[mend]", "++settings.mend.rank=3"], "settings.mend: mend is trained"),
        (["editors=[rome,ft_m]", "request.save=edit.safetensors"], "take one editor"),
        (["editors=[]"], r"editors=\[\]: name some"),
        (["editors=mend"], "editors=mend: name some"),
        (["editors=[ft_m,ft_m]"], "one is named twice"),
        (["editors=[nope]"], "editors: nope is none of .*ft_m"),
        (["+texts=3"], "texts: the run as it is composed has no such setting"),
        (["rendering.edits.render=chat"], "render=chat: the tokenizer has no chat template"),
        (["rendering.edits.end=stop"], "rendering.edits: end is 'stop', expected one of none"),
        (["request.prompt=null"], "request: prompt is missing"),
        (["request.ask=Where?"], r"request.ask=Where\?: expected a list"),
        (["request.save=something"], "request: save=something is there already"),
        (["request.merge=."], "request: merge=. holds something"),
        (["++settings.ft_m.lr=fast"], "settings.ft_m.lr=fast: expected a number"),
        (["++settings.ft_m.layers=[]"], r"layers: expected a list of names, got \[\]"),
        (["++settings.ft_m.steps=0"], "steps must be at least 1, got 0"),
        (["device=cuda"], "device=cuda: PyTorch finds no such device here"),
    ],
)
def test_a_request_that_cannot_be_is_one_line(arguments, error, script, tmp_path):  # noqa: F811
    (tmp_path / "something").touch()
    run = script("edit", *REQUEST, *arguments, f"hydra.run.dir={tmp_path}/run")
    assert re.search(error, run.error), run.error
    assert not list(tmp_path.glob("**/*.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["task=find"], ["task/find", "benchmark", "locate", "request"]),
        (["request.prompt=Lagos is in"], ["request.prompt"]),  # the benchmark takes none
        (["task=locate", "request.prompt=Lagos is in"], ["request.prompt"]),
        (["task=request", "locate.samples=3"], ["locate.samples"]),
    ],
)
def test_settings_of_another_task_are_refused(arguments, words, script, tmp_path):  # noqa: F811
    run = script("edit", *arguments, f"hydra.run.dir={tmp_path}/run")
    assert run.code != 0
    assert "Traceback" not in run.err
    assert all(word in run.err for word in words)
    assert not (tmp_path / "run").exists()


def test_requests_are_put_in_one_way_and_probes_in_another(script, tmp_path):  # noqa: F811
    """Of the same request with an end and without: the edit differs, the questions do not."""
    answers, model = [], shipped()
    for end in ("none", "eos"):
        file = tmp_path / f"{end}.safetensors"
        ends = (f"rendering.edits.end={end}", f"request.save={file}")
        run = script("edit", *REQUEST, *ends, f"hydra.run.dir={tmp_path}/{end}")
        assert run.code == 0, run.err
        edited = edits.load(file, model).edited(model)
        answers.append(edited.generate(["Gothenburg is a city in"], max_new_tokens=8))
        answers.append(edited.score(["Gothenburg is a city in"], ["Norway"]).log_probs[0])
    assert len(answers[1]) == len(answers[3])
    assert not torch.equal(answers[1], answers[3])
    assert answers[2] == [" Norway"] != answers[0]


# records that cannot be used


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (None, "no file 'nope.json'"),
        ('[{"prompt": "Lagos is', r"records.json is not JSON"),
        ("", r"records.json is empty"),
        ([], r"records.json holds an empty list"),
        ([{k: v for k, v in RECORD.items() if k != "subject"}], r"records.json\[0\].subject"),
        ([{**RECORD, "subject": "Kano"}], "'Kano' is not in the prompt"),
        ([{**RECORD, "target_new": " "}], r"records.json\[0\].target_new: expected text"),
        ([{**RECORD, "prompt": "Lagos " * 300}], "none of the 1 records fits into"),
    ],
)
def test_records_that_cannot_be_used_are_named(rows, error, write, script, tmp_path):  # noqa: F811
    path = "nope.json" if rows is None else write(rows)
    run = script(
        *("edit", "editors=[ft_m]", "data=counterfact", f"data.test={path}", *QUIET),
        f"hydra.run.dir={tmp_path}/run",
    )
    assert re.search(error, run.error), run.error
    assert not (tmp_path / "run/results.json").exists()
    assert not list(tmp_path.glob("run/**/*.jsonl"))


def test_a_record_that_cannot_be_used_does_not_stop_the_others(write, script, tmp_path):  # noqa: F811
    path = write([RECORD, {**RECORD, "subject": "Kano"}, {**RECORD, "prompt": "Lagos " * 300}])
    run = script(
        *("edit", "editors=[ft_m]", "data=counterfact", f"data.test={path}", *QUIET),
        *("++settings.ft_m.steps=2", f"hydra.run.dir={tmp_path}/run"),
    )
    assert run.code == 0, run.err
    assert "left out 1:\n  records.json[1]" in run.out
    assert "left out, longer than the model takes: records-2" in run.out
    assert {r["count"] for r in results(tmp_path / "run") if r["probe"] == "reliability"} == {1}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["split=nope"], "no split 'nope' in counterfact; expected train, val, test"),
        (["split=val"], "split 'val' is empty"),
        (["protocol.records_per_chunk=0"], "records_per_chunk must be at least 1"),
        (["protocol.generate=[nope]"], "are none of reliability"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(arguments, error, write, script, tmp_path):  # noqa: F811
    run = script(
        *("edit", "editors=[ft_m]", "data=counterfact", f"data.test={write([RECORD])}"),
        *(*QUIET, *arguments, f"hydra.run.dir={tmp_path}/run"),
    )
    assert re.search(error, run.error), run.error
    assert not (tmp_path / "run/results.json").exists()


def test_a_run_is_resumed_from_its_own_folder_only(script, tmp_path):  # noqa: F811
    run = script("edit", "resume=gone", f"hydra.run.dir={tmp_path}/run")
    assert "resume=gone: there is no config.yaml" in run.error


def test_resuming_takes_a_run_of_its_own_and_no_other_setting(run, script, tmp_path):  # noqa: F811
    for arguments, error in (
        (
            [f"resume={run}", "split=val"],
            "resume keeps the run's own settings; leave out split=val",
        ),
        ([f"resume={tmp_path}"], "this is no run of edit.py"),
    ):
        (tmp_path / "config.yaml").write_text("seed: 0\n")
        assert error in script("edit", *arguments).error


def test_it_runs_from_another_folder(tmp_path):
    """In a process of its own; nothing but the one line on standard error."""
    command = [sys.executable, str(ROOT / "edit.py"), "editors=[]", f"hydra.run.dir={tmp_path}/run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 1
    assert done.stderr == "error: editors=[]: name some, as in 'editors=[mend,rome]'\n"


def test_the_requests_city_is_in_the_world():
    assert "country" in World().about("Gothenburg")
