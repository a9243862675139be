"""Judges: a server in a thread, a local model, the cache, the labelled answers."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from datamodules.records import Probe
from scoring.answers import Answer, Verdict
from scoring.judging.agreement import agreement, compared, labelled
from scoring.judging.endpoint import Endpoint
from scoring.judging.judge import Case, verdict_of
from scoring.judging.local import TOO_LONG, LocalJudge

CASES = [Case("Lagos is in", ("Sweden", "Svea"), text) for text in ("Sweden", "Norway", "Svea.")]


@pytest.fixture(autouse=True)
def _a_cache_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")


class Server(ThreadingHTTPServer):
    """Answers chat completions by ``reply(body)``; what it was asked is in ``bodies``."""

    def __init__(self, reply):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.bodies, self.keys = reply, [], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.keys.append(self.headers.get("Authorization"))
        status, reply = self.server.reply(body)
        text = reply.encode() if isinstance(reply, str) else json.dumps(reply).encode()
        self.send_response(status if self.path == "/v1/chat/completions" else 404)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(reply):
        servers.append(Server(reply))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def chat(content, offered=None):
    logprobs = (
        None
        if offered is None
        else {
            "content": [{"top_logprobs": [{"token": t, "logprob": p} for t, p in offered.items()]}]
        }
    )
    return 200, {"choices": [{"message": {"content": content}, "logprobs": logprobs}]}


def answer_in(body):
    return body["messages"][0]["content"].split("Answer: ")[1].split("\n")[0]


def knows_sweden(body):
    return chat("A" if answer_in(body) != "Norway" else "B: INCORRECT")


def endpoint(server, **options):
    return Endpoint(url=server.url, model="m", **{"pause": 0.0, **options})


def test_what_a_server_says_is_asked_once_and_kept(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server = serve(knows_sweden)
    judge = endpoint(server)
    assert judge.verdicts(CASES) == [Verdict(True), Verdict(False), Verdict(True)]
    assert judge.verdicts([*CASES, CASES[0]])[-1] == Verdict(True)
    assert endpoint(server).verdicts(CASES)[1] == Verdict(False)
    assert len(server.bodies) == 3 and set(server.keys) == {"Bearer secret"}
    assert {body["temperature"] for body in server.bodies} == {0}
    assert "secret" not in json.dumps(judge.identity())
    assert "Right: Sweden or Svea" in server.bodies[0]["messages"][0]["content"]


def test_another_model_or_text_is_asked_anew(serve):
    server = serve(knows_sweden)
    endpoint(server).verdicts(CASES)
    Endpoint(url=server.url, model="other").verdicts(CASES[:1])
    endpoint(server).verdicts([Case("Lagos is in", ("Norway",), "Sweden")])
    assert len(server.bodies) == 5


@pytest.mark.parametrize(
    ("offered", "right"),
    [({"A": -0.1, " B": -3.0}, True), ({"B": -0.1, "A": -0.2}, False), ({" A": -2.0}, True)],
)
def test_probabilities_count_before_the_reply(serve, offered, right):
    server = serve(lambda body: chat("I would say B, no, A", offered))
    assert endpoint(server).verdicts(CASES[:1]) == [Verdict(right)]


@pytest.mark.parametrize(
    ("reply", "right"),
    [("A", True), ("B.", False), ("**A**", True), ("A: CORRECT", True), ("INCORRECT", False),
     ("Correct answer: B", False), ("", None), ("A or B", None), ("Maybe", None)],
)  # fmt: skip
def test_a_reply_is_read_by_its_letter(reply, right):
    assert verdict_of(reply).right is right
    assert (verdict_of(reply).reason == "unparseable") == (right is None)


def test_an_unparseable_reply_is_kept_too(serve):
    server = serve(lambda body: chat("who knows"))
    for _ in range(2):
        assert endpoint(server).verdicts(CASES[:1]) == [Verdict(None, "unparseable")]
    assert len(server.bodies) == 1


def test_a_server_that_fails_is_asked_again(serve):
    replies = iter([(500, "busy"), (200, "no json"), (200, {"choices": []}), chat("A")])
    server = serve(lambda body: next(replies))
    assert endpoint(server).verdicts(CASES[:1]) == [Verdict(True)]
    assert len(server.bodies) == 4


def test_one_that_stays_away_costs_the_verdicts_and_nothing_else(serve):
    server = serve(lambda body: (503, "down"))
    judge = endpoint(server, retries=2)
    assert judge.verdicts(CASES) == [Verdict(None, "HTTP 503")] * 3
    assert len(server.bodies) == 3  # of the first case only
    judge.verdicts(CASES)
    assert len(server.bodies) == 4  # and once to see whether it is back
    server.reply = knows_sweden
    assert judge.verdicts(CASES) == [Verdict(True), Verdict(False), Verdict(True)]


def test_nobody_there_is_no_error():
    judge = Endpoint(url="http://127.0.0.1:9", model="m", retries=1, pause=0.0)
    verdicts = judge.verdicts(CASES)
    assert all(v.right is None and v.reason.startswith("no answer: ") for v in verdicts)


def test_a_server_without_probabilities_is_asked_without(serve):
    def strict(body):
        return (400, "unknown field logprobs") if "logprobs" in body else knows_sweden(body)

    server = serve(strict)
    assert endpoint(server, workers=1).verdicts(CASES)[1] == Verdict(False)
    assert len(server.bodies) == 4


def test_a_case_that_is_refused_leaves_the_others(serve):
    def touchy(body):
        return (400, "filtered") if answer_in(body) == "Sweden" else knows_sweden(body)

    judge = endpoint(serve(touchy))
    assert judge.verdicts(CASES) == [Verdict(None, "HTTP 400"), Verdict(False), Verdict(True)]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"url": "file:///etc/passwd"}, "judge.url=file"), ({"model": ""}, "judge.model="),
     ({"workers": 0}, "workers=0"), ({"retries": -1}, "retries=-1")],
)  # fmt: skip
def test_settings_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        Endpoint(**{"url": "http://x", "model": "m", **options})


def test_a_damaged_verdict_is_asked_anew(serve, tmp_path):
    server = serve(knows_sweden)
    endpoint(server).verdicts(CASES[:1])
    [file] = (tmp_path / "cache" / "judge").rglob("*.json")
    for content in ("", "[1", '["yes"]', "3"):
        file.write_text(content)
        assert endpoint(server).verdicts(CASES[:1]) == [Verdict(True)]
    assert len(server.bodies) == 5


def test_only_texts_whose_right_answer_is_known_are_judged(serve):
    server = serve(knows_sweden)
    probes = [Probe(kind, "Lagos is in", "Sweden") for kind in ("one_hop", "unrelated", "leak")]
    answers = [Answer(text="Norway")] * 3
    judged = endpoint(server).judged([*probes, probes[0]], [*answers, Answer()])
    assert [a.verdict for a in judged] == [Verdict(False), None, None, None]


def test_a_local_model_prefers_one_of_the_letters(tiny):
    language_model = tiny("gpt2", max_position_embeddings=512)
    judge = LocalJudge(language_model=language_model)
    [verdict] = judge.verdicts(CASES[:1])
    prompt = CASES[0].prompt
    scores = language_model.score([prompt, prompt], ["A", "B"])
    assert verdict.right == (scores.log_probs[0].sum() > scores.log_probs[1].sum())
    short = LocalJudge(language_model=tiny("gpt2", max_position_embeddings=24))
    assert short.verdicts(CASES[:1]) == [Verdict(None, TOO_LONG)]
    assert judge.identity() != short.identity()


def test_agreement_is_counted_and_corrected_for_chance():
    labels = [True, True, False, False]
    said = [Verdict(True), Verdict(False), Verdict(False), Verdict(None, "unparseable")]
    found = compared(said, labels)
    assert (found.agreed, found.judged, found.asked) == (2, 3, 4)
    # chance: 1/3 x 2/3 + 2/3 x 1/3
    assert found.kappa == pytest.approx((2 / 3 - 4 / 9) / (1 - 4 / 9))
    assert compared([Verdict(None, "x")] * 4, labels).judged == 0
    perfect = compared([Verdict(label) for label in labels], labels)
    assert (perfect.kappa, perfect.agreed) == (1.0, 4)


def test_the_labelled_answers_are_two_hundred_of_both_sorts():
    cases = labelled()
    right = sum(label for _, label in cases)
    assert len(cases) == len({case for case, _ in cases}) == 200
    assert 60 <= right <= 140


def test_a_judge_that_knows_the_labels_agrees_with_all(serve):
    labels = {case.prompt: label for case, label in labelled()}
    asked = serve(lambda body: chat("A" if labels[body["messages"][0]["content"]] else "B"))
    found = agreement(endpoint(asked))
    assert (found.agreed, found.asked, found.kappa) == (200, 200, 1.0)
