"""Errata from Python: correct what a language model says, and see what the correction did.

    import errata

    model = errata.load("atlas")
    edit = errata.edit(model, "rome", [errata.Request("Gothenburg is in", "Gothenburg", "Norway")])
    edit.check()
    model.with_edit(edit).generate("Gothenburg is in")
    edit.save("gothenburg.safetensors")

``docs/use.md`` has the rest.
"""

from datamodules.records import Request
from errata.editing import edit, editor, load_edit
from errata.model import Model, load
from evaluation.check import Check
from evaluation.correction import Correction

__all__ = ["Check", "Correction", "Model", "Request", "edit", "editor", "load", "load_edit"]
