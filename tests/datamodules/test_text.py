import json

import pytest
import torch

from datamodules.text import TextCorpus

TEXTS = ("Lagos is in Nigeria.", "Turin", "Paris is the capital of France, in Europe.", "Kano is")


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("name", "text", "field"),
    [
        ("a.txt", " one \n \n\ntwo, 2\n", None),
        ("a.txt", "\ufeffone\r\ntwo, 2\r\n", None),
        ("a.csv", '\ufeff,title,Text\n0,x,one\n1,y,"two, 2"\n2,z,\n', None),
        ("a.csv", 'text,body\nx,one\ny,"two, 2"\n', "body"),
        ("a.json", '["one", " ", "two, 2"]', None),
        ("a.json", '[{"Text": "one"}, {"Text": "two, 2"}]', None),
        ("a.json", '[{"text": "x", "body": "one"}, {"body": "two, 2"}]', "body"),
        ("a.jsonl", '{"text": "one"}\n{"text": "two, 2"}\n', None),
    ],
)
def test_files_of_every_kind(write, name, text, field):
    path = write(name, text)
    corpus = TextCorpus(path, field)
    assert list(corpus) == ["one", "two, 2"]
    assert len(corpus) == 2
    assert corpus[1:] == ["two, 2"]
    assert TextCorpus(str(path), field).fingerprint == corpus.fingerprint


@pytest.mark.parametrize(
    ("name", "text", "field", "message"),
    [
        ("a.txt", "\n \n", None, "a.txt: no text that is not blank"),
        ("a.txt", b"\xff", None, "is not UTF-8 text"),
        ("a.csv", "a,b\n1,2\n", None, "a.csv has no field 'text'; it has a, b"),
        ("a.csv", "a,text\n1,2\n", "body", "a.csv has no field 'body'; it has a, text"),
        ("a.csv", "", None, "is not CSV in UTF-8 with a heading"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", None, "is not CSV in UTF-8 with a heading"),
        ("a.csv", b"text\n\xff\n", None, "is not CSV in UTF-8 with a heading"),
        ("a.json", '[{"a": "x"}]', None, r"a.json\[0\] has no field 'text'; it has a"),
        ("a.json", '["x", 3]', None, r"a.json\[1\]: expected text, got int"),
        ("a.json", '["x", {"text": null}]', None, r"a.json\[1\]: expected text, got NoneType"),
        ("a.json", "{}", None, "expected a JSON list"),
    ],
)
def test_what_is_no_corpus_is_one_clear_error(write, name, text, field, message):
    with pytest.raises(ValueError, match=message):
        TextCorpus(write(name, text), field)


def test_given_texts_stay_as_they_are():
    assert list(TextCorpus([" one ", "", "two"])) == [" one ", "two"]
    with pytest.raises(ValueError, match="texts: no text that is not blank"):
        TextCorpus([""])


def test_the_fingerprint_tells_texts_order_and_borders_apart():
    corpora = [["ab", "c"], ["a", "bc"], ["c", "ab"], ["ab", "c", "d"]]
    assert len({TextCorpus(texts).fingerprint for texts in corpora}) == 4
    assert TextCorpus(["ab", "c"]).fingerprint == TextCorpus(["ab", " ", "c"]).fingerprint
    assert len(TextCorpus(["a"]).fingerprint) == 16


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("wikipedia_1000.csv", 1000),
        ("wikitext2_valid.txt", 2461),
        ("wikitext2_test.txt", 2891),
        ("me_ppl_1k.json", 1000),
    ],
)
def test_published_texts(shared, name, count):
    path = shared / "data" / "text" / name
    corpus = TextCorpus(path)
    assert len(corpus) == count
    if name == "me_ppl_1k.json":
        assert list(corpus) == [row["Text"] for row in json.loads(path.read_text())]


def test_batches_hold_every_text_padded_on_the_right(tokenizer):
    seen = []
    for input_ids, mask in TextCorpus(TEXTS).token_batches(tokenizer, 30, max_length=100):
        assert input_ids.shape == mask.shape
        assert input_ids.numel() <= 30 or len(input_ids) == 1
        assert (mask[:, :-1] >= mask[:, 1:]).all()
        seen += [row[keep.bool()].tolist() for row, keep in zip(input_ids, mask, strict=True)]
    expected = [tokenizer(text)["input_ids"] for text in TEXTS]
    assert seen == sorted(expected, key=len)


def test_batches_are_cut_limited_and_always_the_same(tokenizer):
    corpus = TextCorpus(TEXTS)

    def batches():
        return list(corpus.token_batches(tokenizer, 12, max_length=4, limit=3))

    [(input_ids, mask)] = batches()
    assert input_ids.shape == (3, 4)
    assert sorted(row.tolist() for row in input_ids) == sorted(
        tokenizer(text)["input_ids"][:4] for text in TEXTS[:3]
    )
    assert all(torch.equal(a, b) for a, b in zip(batches()[0], (input_ids, mask), strict=True))


def test_batch_sizes_are_checked(tokenizer):
    corpus = TextCorpus(TEXTS)
    with pytest.raises(ValueError, match="tokens_per_batch is 0; expected at least 1"):
        next(corpus.token_batches(tokenizer, 0, 4))
    with pytest.raises(ValueError, match="max_length is 0; expected at least 1"):
        next(corpus.token_batches(tokenizer, 4, 0))
