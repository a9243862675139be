"""Which words of a prompt name its subject, where a file does not say: only if that is sure."""

from __future__ import annotations

import re
from collections.abc import Sequence

SMALL = frozenset(
    "a an the this that these those what which who whom whose when where why how in on at of by "
    "for from to with into and or as is are was were be been does do did has have had can could "
    "will would should located born made named called known originally currently created written first "
    "released produced developed published founded died lived plays works belongs "
    "name tell complete question q if it its he she they i we you there here".split()
)
"""Words that open a sentence or stand around a name, and are no part of one."""
LINK = r"(?:of|the|de|la|le|du|da|di|van|von|der|den|del|and)"
WORD = r"[^\W\d_a-z][\w.'’&-]*"  # begins with a capital
NAME = re.compile(rf"{WORD}(?:\s+(?:{LINK}\s+)*(?:{WORD}|\d[\w.-]*))*")
QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”')
NUMBER = re.compile(r"\d\S*\s*$")
NEXT = re.compile(r"['’]s\b|\s*[^\W_]+|")


def subject_of(prompt: str, others: Sequence[str] = ()) -> str | None:
    """The one name in a prompt; None where there is none, several, or one that may be none.

    What stands in quotes is a name, else words with capitals, if a small word, a mark or the end
    stands behind them: "Bali myna" is cut wrongly by its capitals. One word that opens the prompt
    has a capital anyway: it is a name only where it stands in other wordings, too.

    Args:
        prompt: of the request.
        others: its other wordings: where there are some, all of them have to have the name.
    """
    quoted = [one or other for one, other in QUOTED.findall(prompt)]
    names = list(dict.fromkeys(quoted or _capitals(prompt)))
    if others:
        names = [name for name in names if all(name in other for other in others)]
    elif any(prompt.startswith(name) and " " not in name for name in names):
        return None
    if len(names) != 1 or not (quoted or _alone(prompt, names[0])):
        return None
    return names[0]


def _capitals(prompt: str) -> list[str]:
    """Words with capitals that belong together, without those that only open a sentence."""
    names = []
    for match in NAME.finditer(prompt):
        words, before = match[0].split(), prompt[: match.start()].rstrip()
        while words and words[0].casefold() in SMALL and (not before or before[-1] in ".:?"):
            words = words[1:]
        while words and re.fullmatch(LINK, words[0]):
            words = words[1:]
        names.append(" ".join(words).removesuffix("'s").removesuffix("’s").rstrip(".'’-"))
    return [name for name in names if name and name in prompt]


def _alone(prompt: str, name: str) -> bool:
    """Whether what stands around the name is no further part of it."""
    start = prompt.rindex(name)
    behind = NEXT.match(prompt, start + len(name))
    word = behind[0].strip() if behind else ""
    return (not word or word.casefold() in SMALL) and not NUMBER.search(prompt[:start])
