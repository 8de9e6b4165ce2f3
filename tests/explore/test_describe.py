"""Descriptions, against a scripted endpoint on this machine."""

from collections import Counter

import pytest
from explore.scripted_endpoint import WORDS, ask, bytes_of, knows, record, texts_of

from unmix.errors import UserError
from unmix.explore import describe as module
from unmix.explore.describe import describe_site, read_lines
from unmix.explore.describe_score import Score
from unmix.explore.describe_text import CLOSE, OPEN, SHOWN, split
from unmix.explore.pack import script


def test_a_model_that_knows_scores_1(tmp_path, model):
    knowing, said = model(knows), []
    [line] = ask(tmp_path / "l0-5.jsonl", knowing, [record(7)], said.append)
    assert (line["i"], line["text"], line["model"], line["member"]) == (7, "the Python keyword def", "tiny", "l0-5")
    assert line["detection"] == {"accuracy": 1.0, "se": Score(16, 16).facts()["se"], "n": 16}
    assert line["fuzzing"] == {"accuracy": 1.0, "se": Score(20, 20).facts()["se"], "n": 20}
    assert line["asked"] == len(knowing.sent) == module.ASKED
    assert {path for path, _ in knowing.sent} == {"/v1/chat/completions"}
    assert all(body["temperature"] == 0 and body["model"] == "tiny" for _, body in knowing.sent)
    assert said[0] == (
        f"asking {knowing.url} (on this machine), model tiny, about 1 features of l0-5: about 9 questions each, with "
        "text of the corpus"
    )
    assert said[1].startswith("feature 7: the Python keyword def  [detection 1.00 ± ")


def test_one_that_always_says_yes_scores_a_half(tmp_path, model):
    [line] = ask(
        tmp_path / "a.jsonl",
        model(lambda q: "a word" if q.startswith("Text 1") else str([1] * len(texts_of(q)))),
        [record()],
    )
    assert (line["detection"]["accuracy"], line["fuzzing"]["accuracy"]) == (0.5, 0.5)


def test_one_that_is_always_wrong_scores_0(tmp_path, model):
    def wrong(question):
        answer = knows(question)
        return answer if question.startswith("Text 1") else answer.translate(str.maketrans("01", "10"))

    [line] = ask(tmp_path / "a.jsonl", model(wrong), [record()])
    assert (line["detection"]["accuracy"], line["fuzzing"]["accuracy"]) == (0.0, 0.0)


def test_nothing_that_is_shown_is_asked_about(tmp_path, model):
    knowing = model(knows)
    ask(tmp_path / "a.jsonl", knowing, [record()])
    [shown, *rest] = [texts_of(body["messages"][1]["content"]) for _, body in knowing.sent]

    def plain(text):
        return text.replace(OPEN, "").replace(CLOSE, "")

    asked = {plain(text) for texts in rest for text in texts}
    assert len(shown) == SHOWN
    assert not asked & {plain(text) for text in shown}
    assert 'Tokens made likelier: " return", " é"' in knowing.sent[0][1]["messages"][1]["content"]
    assert not [body for _, body in knowing.sent[1:] if "Strengths" in body["messages"][1]["content"]]


def test_it_resumes_at_the_first_feature_without_an_answer(tmp_path, model):
    path, knowing = tmp_path / "l0-5.jsonl", model(knows)
    ask(path, knowing, [record(1), record(2)])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 40])  # cut in the middle of feature 2
    before = len(knowing.sent)
    rows = ask(path, knowing, [record(1), record(2), record(3)])
    assert [row["i"] for row in rows] == [1, 2, 3]
    assert len(knowing.sent) - before == 2 * module.ASKED
    assert path.read_bytes().startswith(whole)
    said = []
    ask(path, knowing, [record(1), record(3)], said.append)
    assert said == [f"all 2 features are described in {path}; nothing is asked"]
    assert len(knowing.sent) - before == 2 * module.ASKED
    ask(path, knowing, [record(1)], seed=5)  # another question
    assert [row["i"] for row in read_lines(path)] == [1, 2, 3, 1]


def test_a_feature_without_a_maximum_is_left_out(tmp_path, model):
    """Some of its values are not finite, and null in the site."""
    one, said = record(1), []
    one["max"] = one["groups"]["top"][0]["v"][0][1] = None
    rows = ask(tmp_path / "l0-5.jsonl", model(knows), [one, record(2)], said.append)
    assert [row["i"] for row in rows] == [2]
    assert "feature 1: it has values that are not finite; left out" in said


def test_a_last_line_without_its_end_is_kept(tmp_path, model):
    path, knowing = tmp_path / "l0-5.jsonl", model(knows)
    ask(path, knowing, [record(1)])
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert [row["i"] for row in ask(path, knowing, [record(1), record(2)])] == [1, 2]
    assert len(knowing.sent) == 2 * module.ASKED


def test_a_damaged_line_is_said(tmp_path, model):
    path = tmp_path / "l0-5.jsonl"
    path.write_text('{"i": 1}\nnonsense\n{"i": 2}\n')
    with pytest.raises(UserError, match=r"l0-5.jsonl, line 2 is damaged; remove that line"):
        ask(path, model(knows), [record(1)])
    assert path.read_text() == '{"i": 1}\nnonsense\n{"i": 2}\n'


@pytest.mark.parametrize(
    "bad", ["", "I cannot say.\nReally.", "x" * 400, b"no json", b"[]", b'{"choices": []}', b"[" * 5000, b"\xff"]
)
def test_an_answer_that_cannot_be_read_leaves_the_feature_out(tmp_path, model, bad):
    said = []

    def answer(question):
        return (
            bad
            if "Text 1" in question and question.startswith("Text") and texts_of(question)[0] in first
            else knows(question)
        )

    first = texts_of(module.question(record(1), split(record(1)), bytes_of))
    rows = ask(tmp_path / "a.jsonl", model(answer), [record(1), record(2)], said.append)
    assert [row["i"] for row in rows] == [2]
    assert said[1].startswith("feature 1: tiny answered ")
    assert said[1].endswith("which cannot be read; left out")
    assert not [line for line in said if "\n" in line]


def test_a_score_that_cannot_be_read_is_asked_for_once_more(tmp_path, model):
    asked = Counter()

    def answer(question):
        asked[question] += 1
        if question.startswith("Text 1"):
            return knows(question)
        return "Text 1 is [1], I think" if asked[question] == 1 else f"So: [1, 1], no, {knows(question)}"

    [line] = ask(tmp_path / "a.jsonl", model(answer), [record()])
    assert line["detection"]["accuracy"] == 1.0
    assert set(asked.values()) == {1, 2}


def test_it_gives_up_on_a_model_that_makes_no_sense(tmp_path, model):
    babble = model(lambda question: "\n\nblah\nblah")
    with pytest.raises(UserError, match="tiny gave no answer that can be read for 5 features in a row"):
        ask(tmp_path / "a.jsonl", babble, [record(i) for i in range(9)])
    assert len(babble.sent) == module.GIVE_UP


def test_what_a_model_says_to_itself_is_passed_over(tmp_path, model):
    def answer(question):
        return f"<think>[0] DESCRIPTION: nothing\n</think>\n{knows(question)}"

    [line] = ask(tmp_path / "a.jsonl", model(answer), [record()])
    assert (line["text"], line["detection"]["accuracy"]) == ("the Python keyword def", 1.0)


def test_a_description_is_one_harmless_line(tmp_path, model):
    def answer(question):
        return "DESCRIPTION: **a\u202e\x1b[31m word**" if question.startswith("Text 1") else knows(question)

    [line] = ask(tmp_path / "a.jsonl", model(answer), [record()])
    assert line["text"] == "a [31m word"


def write_site(folder, names=("l0-5",), chosen=None):
    site = folder / "site"
    for name in names:
        (site / name / "f").mkdir(parents=True)
        (site / name / "index.js").write_bytes(script(f"{name}/index", {"density": [0.1, None, 0, 0.2, 0.1]}))
        for number, some in enumerate([[0, 1], [2, 3], [4]]):
            (site / name / "f" / f"{number:05d}.js").write_bytes(script("f", [record(i) for i in some]))
    members = [{"name": name, "features": 5, "shards": {"features": 2}} for name in names]
    manifest = {"format": 1, "fingerprint": "abc", "members": members, "chosen": chosen}
    manifest["tokens"] = {"context": 12}
    (site / "manifest.js").write_bytes(script("manifest", manifest, packed=False))
    spelt = {str(i): word.encode().decode("latin-1") for i, word in enumerate(WORDS) if i}
    (site / "vocabulary.js").write_bytes(script("vocabulary", {"bytes": spelt, "special": {"0": "<|end|>"}}))
    return folder


def test_features_of_a_site(tmp_path, model):
    folder, knowing = write_site(tmp_path), model(knows)
    path = describe_site(folder, knowing.endpoint(), say=lambda line: None)
    assert path == tmp_path / "descriptions" / "l0-5.jsonl"
    assert [row["i"] for row in read_lines(path)] == [0, 3, 4]  # those that fire
    assert [(row["member"], row["site"]) for row in read_lines(path)] == [("l0-5", "abc")] * 3
    texts = "".join(body["messages"][1]["content"] for _, body in knowing.sent)
    assert "<|end|>" in texts
    assert " é" in texts
    describe_site(folder, knowing.endpoint(), features=[1, 3], say=lambda line: None)
    assert [row["i"] for row in read_lines(path)] == [0, 3, 4, 1]


def test_the_chosen_member_is_described(tmp_path, model):
    folder = write_site(tmp_path, ("l0-5", "l0-50"), chosen="l0-50")
    path = describe_site(folder, model(knows).endpoint(), features=[0], say=lambda line: None)
    assert path.name == "l0-50.jsonl"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"member": "x"}, "the site has no member x; give --member with one of l0-5, l0-50"),
        ({}, "several members, and none is chosen; give --member with one of l0-5, l0-50"),
        ({"member": "l0-5", "features": [5]}, "l0-5 has no feature 5; give 0 to 4"),
    ],
)
def test_what_the_site_lacks_is_said_before_anything_is_sent(tmp_path, model, more, said):
    folder, knowing = write_site(tmp_path, ("l0-5", "l0-50")), model(knows)
    with pytest.raises(UserError, match=said):
        describe_site(folder, knowing.endpoint(), say=lambda line: None, **more)
    assert knowing.sent == []
