"""What the editors of this folder are tested on."""

import copy
from dataclasses import fields

from datamodules.records import Request
from datamodules.text import TextCorpus
from editors.locate_then_edit.search.contexts import Contexts
from editors.locate_then_edit.search.search import Search
from editors.locate_then_edit.statistics.moments import Moments
from models import LanguageModel

REQUESTS = [
    Request("The capital of Sweden is", "Sweden", "Paris"),
    Request("Lagos is in", "Lagos", "Japan, the country"),
    Request("What is the mother tongue of Angela Merkel?", "Angela Merkel", "yen"),
]
AT_THE_END = [  # where an edit surely reaches the next token, also in a random model
    Request("I come from Sweden", "Sweden", "Paris"),
    Request("They went to Lagos", "Lagos", "Japan, the country"),
    Request("The mother tongue of Angela Merkel", "Angela Merkel", "yen"),
]
TEMPLATES = ["{}", "We went home. {}", "The. {}"]
CONTEXTS = Contexts(TEMPLATES)
CORPUS = TextCorpus(
    [
        "Gothenburg is a city in Sweden, and the capital of Sweden is Stockholm.",
        "Which country is Lagos in? Lagos is in Nigeria, where people speak English.",
        "Marie Curie was born in Warsaw. She was a citizen of Poland and of France.",
        "The currency of Japan is the yen. Tokyo is the capital of Japan, in Asia.",
        "The citizens of Germany speak German; the country uses the euro in Europe.",
    ]
)
MOMENTS = Moments(CORPUS)


def bundled(arguments: dict) -> dict:
    """An editor's arguments, those of its search in one object."""
    names = {field.name for field in fields(Search)} & arguments.keys()
    search = Search(**{name: arguments[name] for name in names})
    return {"search": search, **{n: x for n, x in arguments.items() if n not in names}}


def in_float64(lm: LanguageModel) -> LanguageModel:
    return LanguageModel(copy.deepcopy(lm.model).double(), lm.tokenizer)
