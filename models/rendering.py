"""How a prompt and a target become the text that a model reads: bare or as a chat, with which end.

The span of a subject is given in the prompt and found in the rendered text by its place there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

RENDERS = ("text", "chat")
ENDS = ("none", "eos", "turn")
_PLACE = "\x02"  # stands for the prompt while a template is taken apart; in no vocabulary's words


@dataclass(frozen=True)
class Rendering:
    """How texts are put to a model.

    Attributes:
        render: ``text``: prompts as they are; ``chat``: each as a user's message, in the
            tokenizer's chat template, up to where the assistant's answer begins.
        end: what is to follow a target that an editor makes true: ``none``, the tokenizer's
            ``eos``, or ``turn``, what the chat template puts behind an assistant's message. It is
            never part of what is scored. Encoder-decoders end their answers by themselves.
        system: the system's message of a chat; None: the template's own, if it has one.

    Raises:
        ValueError: an attribute is none of the above.
    """

    render: str = "text"
    end: str = "none"
    system: str | None = None

    def __post_init__(self):
        for name, known in (("render", RENDERS), ("end", ENDS)):
            if getattr(self, name) not in known:
                got = getattr(self, name)
                raise ValueError(f"{name} is {got!r}, expected one of {', '.join(known)}")

    def around(self, tokenizer: PreTrainedTokenizerFast) -> tuple[str, str]:
        """What stands before a prompt, and behind it.

        Raises:
            ValueError: a chat is asked for, and the tokenizer has no template.
        """
        if self.render == "text":
            return "", ""
        before, behind, _ = _template(tokenizer, self.system, "render=chat")
        return before, behind

    def ending(self, tokenizer: PreTrainedTokenizerFast) -> list[int]:
        """The ids behind a target.

        Raises:
            ValueError: the tokenizer has no end token, or no template to take the turn's end from.
        """
        if self.end == "none":
            return []
        if self.end == "turn":
            ids = self._turn(tokenizer, "end=turn")
            if not ids:
                raise ValueError("end=turn: the chat template puts nothing behind an answer")
            return ids
        if tokenizer.eos_token_id is None:
            raise ValueError("end=eos: the tokenizer has no end token")
        return [cast(int, tokenizer.eos_token_id)]

    def stops(self, tokenizer: PreTrainedTokenizerFast) -> list[int]:
        """The ids that end a generated answer, beside the model's own; errors as of `ending`."""
        turn = self._turn(tokenizer, "render=chat") if self.render == "chat" else []
        return [*self.ending(tokenizer), *turn]

    def _turn(self, tokenizer: PreTrainedTokenizerFast, setting: str) -> list[int]:
        """The id that ends an assistant's message; none if the template has no end for it."""
        *_, turn = _template(tokenizer, self.system, setting)
        ids = tokenizer(turn, add_special_tokens=False)["input_ids"]
        # blanks may stand before the token that ends the turn, and a line break behind it
        return [id for id in ids if id in tokenizer.added_tokens_decoder][:1] or ids[:1]


def _template(
    tokenizer: PreTrainedTokenizerFast, system: str | None, setting: str
) -> tuple[str, str, str]:
    """What the chat template puts before a prompt, behind it, and behind an answer."""
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(f"{setting}: the tokenizer has no chat template")
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": _PLACE})
    answer = {"role": "assistant", "content": _PLACE}
    try:
        question = _applied(tokenizer, messages, add_generation_prompt=True)
        answered = _applied(tokenizer, [*messages, answer], add_generation_prompt=False)
    except TemplateError as error:
        raise ValueError(f"{setting}: the chat template refuses the messages: {error}") from error
    parts = question.split(_PLACE)
    if len(parts) != 2:
        raise ValueError(f"{setting}: the chat template does not put a message once into its text")
    return parts[0], parts[1], answered.rpartition(_PLACE)[2]


def _applied(
    tokenizer: PreTrainedTokenizerFast, messages: list[dict], *, add_generation_prompt: bool
) -> str:
    text = tokenizer.apply_chat_template(
        messages,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        # a template that knows thinking is told to leave it; others take no notice
        enable_thinking=False,
    )
    return cast(str, text)
