"""Numbers of the authors' implementations on a tiny GPT-2, and how near ours come to them."""

import json

import torch
from safetensors.torch import load_file

from datamodules.records import Request
from models import LanguageModel

CLOSE = 1e-5  # norm of the difference / norm


class Reference:
    def __init__(self, folder):
        self.folder = folder
        self.common = self.json("common")
        self.language_model = LanguageModel.load(str(folder / "model"))
        self.requests = [
            Request(r["prompt"].format(r["subject"]), r["subject"], r["target_new"])
            for r in self.common["requests"] + self.common["extra_requests"]
        ]

    def json(self, name: str) -> dict:
        return json.loads((self.folder / f"{name}.json").read_text())

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / f"{name}.safetensors")

    def query_logits(self, edit) -> torch.Tensor:
        logits = []
        for prompt in self.common["query_prompts"]:
            with torch.no_grad(), edit.hooks(self.language_model):
                hidden = self.language_model.hidden(self.language_model.encode([prompt], None))
                logits.append(self.language_model.head(hidden[0, -1]))
        return torch.stack(logits)


def distance(got: torch.Tensor, expected: torch.Tensor) -> float:
    assert got.shape == expected.shape
    return float((got.double() - expected.double()).norm() / expected.double().norm())
