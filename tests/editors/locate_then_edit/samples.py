"""What the editors of this folder are tested on."""

import copy

from datamodules.records import Request
from datamodules.text import TextCorpus
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
CONTEXTS = ["{}", "We went home. {}", "The. {}"]
CORPUS = TextCorpus(
    [
        "Gothenburg is a city in Sweden, and the capital of Sweden is Stockholm.",
        "Which country is Lagos in? Lagos is in Nigeria, where people speak English.",
        "Marie Curie was born in Warsaw. She was a citizen of Poland and of France.",
        "The currency of Japan is the yen. Tokyo is the capital of Japan, in Asia.",
        "The citizens of Germany speak German; the country uses the euro in Europe.",
    ]
)


def in_float64(lm: LanguageModel) -> LanguageModel:
    return LanguageModel(copy.deepcopy(lm.model).double(), lm.tokenizer)
