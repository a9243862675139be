"""A judge behind an address: any server that answers as OpenAI's chat completions do.

By the standard library: one small request needs no HTTP client as a dependency.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from scoring.answers import Verdict
from scoring.judging.judge import RIGHT, WRONG, Case, Judge, verdict_of

log = logging.getLogger(__name__)

REFUSED = (400, 422)
"""Statuses of a request that is not taken as it is; others say that nobody answers now."""


class Endpoint(Judge):
    """Asks a server for each case, at temperature 0, for the letter and its probability.

    A server that does not give probabilities is taken at its word. One that cannot be reached is
    asked again after a while, twice as long each time; if it stays so, the texts of the call have
    no verdict, and the next call tries once.

    Args:
        url: of the API, as in ``https://api.openai.com/v1``.
        model: as the server names it.
        key_variable: the variable of the environment that holds the key, if one is needed.
        retries: after a first attempt that failed.
        pause: seconds before the first of them.
        timeout: seconds that an answer may take.
        workers: cases that are asked at a time.

    Raises:
        ValueError: ``url`` is none of http, no model, or a number that is too small.
    """

    def __init__(
        self,
        *,
        url: str,
        model: str,
        key_variable: str = "OPENAI_API_KEY",
        retries: int = 3,
        pause: float = 1.0,
        timeout: float = 60.0,
        workers: int = 8,
    ):
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise ValueError(f"judge.url={url}: expected http:// or https:// and what follows")
        if not model:
            raise ValueError(f"judge.model={model}: expected the name that the server knows")
        if retries < 0 or pause < 0 or timeout <= 0 or workers < 1:
            raise ValueError(
                f"judge: retries={retries}, pause={pause}, timeout={timeout}, workers={workers}: "
                "expected 0, 0, more than 0, and 1 at least"
            )
        self.url, self.model = url.rstrip("/"), model
        self.key_variable = key_variable
        self.retries, self.pause, self.timeout, self.workers = retries, pause, timeout, workers
        self.probabilities, self.reachable = True, True

    def identity(self) -> dict[str, object]:
        """The address and the model."""
        return {"judge": "endpoint", "url": self.url, "model": self.model}

    def ask(self, cases: Sequence[Case]) -> list[Verdict]:
        """As `Judge.ask`; the first case shows whether there is anybody to ask the others."""
        first = self._verdict(cases[0], self.retries if self.reachable else 0)
        if not self.reachable:
            log.warning("judge %s: %s; %s texts not judged", self.url, first.reason, len(cases))
            return [first] * len(cases)
        with ThreadPoolExecutor(self.workers) as pool:
            others = pool.map(lambda case: self._verdict(case, self.retries), cases[1:])
            return [first, *others]

    def _verdict(self, case: Case, retries: int) -> Verdict:
        reason = ""
        for attempt in range(retries + 1):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                verdict = self._answer(case)
            except HTTPError as error:
                reason = f"HTTP {error.code}"
                if error.code in REFUSED:
                    self.reachable = True
                    return Verdict(None, reason)
            except (OSError, HTTPException) as error:
                reason = f"no answer: {error}"
            except (ValueError, LookupError, TypeError, AttributeError):  # JSON of another shape
                reason = "no chat completion"
            else:
                self.reachable = True
                return verdict
        self.reachable = False
        return Verdict(None, reason)

    def _answer(self, case: Case) -> Verdict:
        try:
            choice = self._choice(case)
        except HTTPError as error:
            if error.code not in REFUSED or not self.probabilities:
                raise
            self.probabilities = False  # some servers refuse what they do not offer
            choice = self._choice(case)
        return _by_probability(choice) or verdict_of(choice["message"]["content"])

    def _choice(self, case: Case) -> Mapping[str, Any]:
        """The server's first choice, as the API has it."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": case.prompt}],
            "temperature": 0,
            "max_tokens": 16,
        }
        if self.probabilities:
            body |= {"logprobs": True, "top_logprobs": 5}
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        request = Request(
            f"{self.url}/chat/completions", json.dumps(body).encode(), headers, method="POST"
        )
        with urlopen(request, timeout=self.timeout) as reply:
            return json.loads(reply.read())["choices"][0]


def _by_probability(choice: Mapping[str, Any]) -> Verdict | None:
    """The likelier of the two letters as the first token; None where neither is offered."""
    offered = ((choice.get("logprobs") or {}).get("content") or [{}])[0].get("top_logprobs") or []
    letters = {
        letter: max(
            (float(one["logprob"]) for one in offered if one["token"].strip() == letter),
            default=None,
        )
        for letter in (RIGHT, WRONG)
    }
    values = {letter: value for letter, value in letters.items() if value is not None}
    return Verdict(max(values, key=values.__getitem__) == RIGHT) if values else None
