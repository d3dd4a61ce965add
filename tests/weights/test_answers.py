"""Known answers: what may be called right, and that what is published is consistent in itself."""

import dataclasses
import json
import re
import types

import jax
import numpy as np
import pytest
from layouts import random_params, write_layout
from models import CONFIG as WITH_WORDS
from models import TOKENIZER

from gptoss_edu import forward
from gptoss_edu.config import TINY
from gptoss_edu.tokenizer import NoText, Tokenizer
from gptoss_edu.weights import answers
from gptoss_edu.weights.checkpoint import load_model
from gptoss_edu.weights.layout import HF_PACKED, stored_bytes
from gptoss_edu.weights.verify import record

CONFIG = dataclasses.replace(TINY, num_layers=2, layer_types=())


def judged(monkeypatch, log_TV, rows, expected):
    """What is wrong with an answer where the model says log_TV, and what is said if nothing is."""
    monkeypatch.setattr(answers, "follow", lambda *_: iter(np.array(log_TV)))
    answer = {"prompt": "p", "prompt_rows": [0], "rows": rows, "log_probabilities": expected}
    known = {"tolerance": {"absolute": 0.1, "relative": 0.1}}
    model = types.SimpleNamespace(tokenizer=NoText(CONFIG.vocab_size), config=CONFIG)
    return answers.judge(model, None, answer, known)


def test_a_near_tie_is_not_a_wrong_token(monkeypatch):
    tie = [[-1.0, -1.05, -9.0]]
    problems, passed = judged(monkeypatch, tie, [1], [-1.0])
    assert not problems
    assert "1 of them as likely as another" in passed
    assert judged(monkeypatch, [[-1.0, -1.3]], [1], [-1.3])[0] == [
        "token 1 is row 0, expected row 1"
    ]
    assert judged(monkeypatch, tie, [2], [])[0]


def test_the_tolerance_of_log_probabilities(monkeypatch):
    log_TV = [[-2.0, -9.0]]
    assert not judged(monkeypatch, log_TV, [0], [-2.3])[0]  # 0.3 <= 0.1 + 0.23
    problems, _ = judged(monkeypatch, log_TV, [0], [-2.4])
    assert problems == ["token 1 has log-probability -2.000, expected -2.400 ± 0.340"]


def test_no_number_is_never_right(monkeypatch):
    for expected in ([-1.0], []):
        assert judged(monkeypatch, [[np.nan, np.nan]], [0], expected)[0]


def test_a_row_outside_of_the_vocabulary_is_said(monkeypatch):
    with pytest.raises(ValueError, match="row 109 of a vocabulary of 109 rows"):
        judged(monkeypatch, [[-1.0]], [CONFIG.vocab_size], [])


@pytest.mark.parametrize(
    "change",
    [
        {"rows": []},
        {"rows": [-1]},
        {"rows": [0.5]},
        {"rows": ["1"]},
        {"prompt_rows": None},
        {"prompt": 3},
        {"log_probabilities": [None]},
        {"log_probabilities": [float("nan")]},
    ],
)
def test_answers_of_another_form_are_refused(tmp_path, change):
    answer = {"prompt": "p", "prompt_rows": [0], "rows": [1], "log_probabilities": [-1.0]}
    path, tolerance = tmp_path / "answers.json", {"absolute": 0.1, "relative": 0}
    for added in ({}, change):
        known = {"files": {}, "tolerance": tolerance, "answers": [answer | added]}
        path.write_text(json.dumps(known))
        if not added:
            assert answers.read_answers(path) == known
    with pytest.raises(ValueError, match=r"is not what `verify --record` writes"):
        answers.read_answers(path)


def test_text_becomes_rows_of_the_models_vocabulary():
    answer = {"prompt": "Ro", "continuation": "se", "log_probabilities": [-1.0]}
    prompt, rows, _ = answers.rows_of(answer, TOKENIZER)
    assert TOKENIZER.decode(TOKENIZER.to_ids(prompt + rows)) == "Rose"
    assert max(prompt + rows) < WITH_WORDS.vocab_size
    with pytest.raises(ValueError, match="no tokenizer"):
        answers.rows_of(answer, NoText(CONFIG.vocab_size))


def test_greedy_answers_are_written_token_by_token(tmp_path):
    write_layout(tmp_path, random_params(CONFIG, packed=True), CONFIG, "hf_packed")
    known = json.loads(record(tmp_path, tokens=6).read_text())
    model, params = load_model(tmp_path)
    first = known["answers"][0]
    whole = jax.numpy.asarray([first["prompt_rows"] + first["rows"]])
    logits_BTV = jax.jit(forward, static_argnames="config")(params, whole, config=model.config)
    best_T = np.argmax(logits_BTV[0], axis=-1)[len(first["prompt_rows"]) - 1 : -1]
    assert best_T.tolist() == first["rows"]


@pytest.mark.parametrize("model", answers.MODELS)
def test_what_is_published_is_consistent(model):
    known, tokenizer = answers.published()[model], Tokenizer()
    shards = {n: f for n, f in known["files"].items() if n.startswith("model-")}
    headers = sum(f["bytes"] for f in shards.values())
    headers -= stored_bytes(answers.MODELS[model], HF_PACKED)
    assert 0 < headers < 100_000  # so norms are bf16, too: in float32 they would be 282,240 larger
    assert all(re.fullmatch("[0-9a-f]{64}", f["sha256"]) for f in shards.values())
    assert len({f["sha256"] for f in shards.values()}) == len(shards)
    for answer in known["answers"]:
        prompt, rows, expected = answers.rows_of(answer, tokenizer)
        assert tokenizer.encode(answer["prompt"] + answer["continuation"]) == prompt + rows
        assert len(rows) in (12, 20)
        assert len(expected) == (12 if len(rows) == 12 else 0)
        assert all(value < 0 for value in expected)
