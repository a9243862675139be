"""Makes edits and judges them: ``python edit.py 'editors=[mend,rome]' data.limit=500``.

Or finds out where a model holds its facts: ``python edit.py task=locate split=val data.limit=100``.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import hydra
import lightning as L
import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from rich.console import Console

from datamodules.records import Request
from editors.checkpoints import checkpoint_of, load_trained
from editors.editor import Editor
from editors.locate_then_edit.traces import ROLES, effects, recommended
from editors.locate_then_edit.tracing import Tracing, trace
from evaluation import locating
from evaluation.known import fitting, known
from evaluation.request import before_and_after
from evaluation.table import events, table
from models.language_model import LanguageModel
from train import check_types, of_run, run_folder, told

log = logging.getLogger(__name__)

TASKS = ("benchmark", "locate")


def editor_config(cfg: DictConfig, name: str, language_model: LanguageModel) -> DictConfig:
    """The configuration of one editor: its file, the preset for the model, the user's settings.

    Of a trained one all that counts is its checkpoint, which is looked for here, so that a run that
    is resumed later takes the same.
    """
    overrides = [
        o for o in HydraConfig.get().overrides.task if not o.startswith(("editor=", "editors="))
    ]
    composed = compose("edit", overrides=[*overrides, f"editor={name}"])
    settings = cfg.settings.get(name) or OmegaConf.create()
    target = composed.editor._target_
    if not issubclass(get_class(target), Editor):
        raise ValueError(f"editors: {name} is no editor but a way to train a language model")
    if issubclass(get_class(target), L.LightningModule):
        if settings:
            raise ValueError(f"settings.{name}: {name} is trained, and set as its checkpoint says")
        found = checkpoint_of(get_class(target), name, language_model, cfg.ckpt, cfg.runs)
        return OmegaConf.create({"_target_": target, "checkpoint": str(found)})
    check_types(settings, composed.editor, f"settings.{name}.")
    with open_dict(composed.editor):
        composed.editor = OmegaConf.merge(composed.editor, settings)
    OmegaConf.resolve(composed.editor)
    return composed.editor


def build(config: DictConfig, language_model: LanguageModel) -> Editor:
    """The editor, with its trained weights if it is one that learns."""
    if "checkpoint" in config:
        return load_trained(get_class(config._target_), language_model, config.checkpoint)
    return instantiate(config, language_model=language_model, _convert_="object")


def checked(cfg: DictConfig) -> None:
    """Refuse what contradicts itself, before anything is loaded.

    Raises:
        ValueError: names the setting.
    """
    if cfg.task not in TASKS:
        raise ValueError(f"task={cfg.task}: expected one of {', '.join(TASKS)}")
    names = cfg.editors
    if not isinstance(names, ListConfig) or not names:
        raise ValueError(f"editors={names}: name some, as in 'editors=[mend,rome]'")
    if len(set(names)) < len(names):
        raise ValueError(f"editors={names}: one is named twice")
    for name in cfg.settings:
        if name not in names:
            raise ValueError(f"settings.{name}: {name} is not among editors={names}")
    asked = cfg.request
    if cfg.task == "locate" and asked.prompt is not None:
        raise ValueError("task=locate takes the records of a split, not request.prompt")
    given = [key for key in ("prompt", "subject", "target") if asked[key] is not None]
    missing = {"prompt", "subject", "target"} - set(given)
    if missing and (given or asked.ask or asked.save or asked.merge):
        raise ValueError(f"request.{min(missing)} is missing; a request has all three")
    if not isinstance(asked.ask, ListConfig):
        raise ValueError(f"request.ask={asked.ask}: expected a list, as in 'request.ask=[\"...\"]'")
    if (asked.save or asked.merge) and len(names) > 1:
        raise ValueError(f"request.save and request.merge take one editor, got {names}")
    if asked.save and Path(asked.save).exists():
        raise ValueError(f"request.save={asked.save} is there already; name another file")
    if asked.merge and Path(asked.merge).exists() and not is_empty(Path(asked.merge)):
        raise ValueError(f"request.merge={asked.merge} holds something; name another folder")


def is_empty(folder: Path) -> bool:
    """Whether it is a folder with nothing in it."""
    return folder.is_dir() and not any(folder.iterdir())


def one_request(cfg: DictConfig, editors: dict[str, Editor], console: Console) -> None:
    """Makes one edit with each editor, shows answers before and after, saves or merges it."""
    asked = cfg.request
    request = Request(*(str(text) for text in (asked.prompt, asked.subject, asked.target)))
    for name, editor in editors.items():
        editor.prepare()
        edit = editor.edit([request])
        console.print(before_and_after(name, editor.language_model, edit, request, asked.ask))
        if asked.save:
            edit.save(asked.save, editor.language_model.name)
            log.info("saved the edit: %s", asked.save)
        if asked.merge:
            edit.merge(editor.language_model, asked.merge)
            log.info("wrote the edited model: %s", asked.merge)


def benchmark(cfg: DictConfig, editors: dict[str, Editor], folder: Path, console: Console) -> None:
    """Runs the protocol over the records of a split and shows the tables."""
    # known_only takes the first data.limit that are known, so it has to see all of them
    data = instantiate(cfg.data, **({"limit": None} if cfg.known_only else {}))
    records, name = data.records(cfg.split), data.name
    language_model = next(iter(editors.values())).language_model
    records, too_long = fitting(records, language_model, cfg.protocol.max_new_tokens)
    for record in too_long:
        log.info("left out, longer than the model takes: %s", record.id)
    if cfg.known_only:
        records = known(records, language_model, cfg.data.limit)
        name = f"{name} ({len(records):,} known)"
        log.info("only records whose fact the unedited model knows: %s", name)
    protocol = instantiate(cfg.protocol, _partial_=True, _convert_="object")(
        editors, records, folder, data=name, split=cfg.split
    )
    trainer = instantiate(cfg.trainer)
    trainer.test(protocol, verbose=False)
    if trainer.is_global_zero:
        rows, costs = (
            json.loads((folder / f).read_text()) for f in ("results.json", "efficiency.json")
        )
        for shown in filter(None, (table(rows, costs), events(rows))):
            console.print(shown)
        if (folder / "curves.png").is_file():
            log.info("scores against the number of edits: %s", folder / "curves.png")


def locate(cfg: DictConfig, language_model: LanguageModel, folder: Path, console: Console) -> None:
    """Traces the facts of a split that the model knows, and says which block to edit."""
    tracing = Tracing(**OmegaConf.to_container(cfg.locate), seed=cfg.seed)
    window = tracing.width(language_model.blocks)
    data = instantiate(cfg.data)
    records, _ = fitting(data.records(cfg.split), language_model)
    facts = known(records, language_model)
    log.info("facts that the model knows: %d of %d", len(facts), len(records))
    traces = trace(language_model, [record.request for record in facts], tracing)
    found = effects(traces)
    layer, role = recommended(found) or (None, None)
    run = {
        "model": language_model.name,
        "data": data.name,
        "split": cfg.split,
        "facts": len(traces),
        "clean": sum(one.clean for one in traces) / len(traces),
        "corrupted": sum(one.corrupted for one in traces) / len(traces),
        "window": window,
        "layer": layer,
        "role": role,
    }
    rows = locating.rows({kind: own.numpy() for kind, own in found.items()}, ROLES)
    locating.write(folder, run, rows, [one.line() for one in traces])
    console.print(locating.table(run, rows))


def going_on(folder: Path) -> DictConfig:
    """The configuration of a run that is to go on, which nothing can be added to.

    Raises:
        FileNotFoundError: there is no run in the folder.
        ValueError: it is of another script, or more than the folder is said.
    """
    cfg = of_run(folder, "editors")
    others = [o for o in HydraConfig.get().overrides.task if not o.startswith("resume=")]
    if others:
        raise ValueError(f"resume keeps the run's own settings; leave out {' '.join(others)}")
    return cfg


@hydra.main(version_base="1.3", config_path="configs", config_name="edit")
@told
def main(cfg: DictConfig) -> None:
    """Builds the editors and puts them to the one request or to the benchmark."""
    checked(cfg)
    if cfg.resume:
        folder = Path(cfg.resume)
        cfg = going_on(folder)
        language_model = instantiate(cfg.model)
    else:
        language_model = instantiate(cfg.model)
        names = cfg.editors if cfg.task == "benchmark" else ()
        configs = {name: editor_config(cfg, name, language_model) for name in names}
        with open_dict(cfg):
            cfg.settings = configs
        folder = run_folder(cfg)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a file has no width of its own
    with torch.no_grad():
        if cfg.get("task") == "locate":
            locate(cfg, language_model, folder, console)
            log.info("everything this run wrote: %s", folder)
            return
        editors = {name: build(cfg.settings[name], language_model) for name in cfg.editors}
        if cfg.request.prompt:
            one_request(cfg, editors, console)
        else:
            benchmark(cfg, editors, folder, console)
    log.info("everything this run wrote: %s", folder)


if __name__ == "__main__":
    main()
