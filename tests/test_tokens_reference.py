"""Chapter 01 against what others say: openai-harmony's goldens, and the shape of the vocabulary."""

import json
from itertools import pairwise
from pathlib import Path

import exercises
import pytest

from gptoss_edu.course.checks import tokens
from gptoss_edu.parser import StreamParser
from gptoss_edu.tokenizer import FIRST_CONTROL, START, Tokenizer

GOLDEN = json.loads(
    (Path(__file__).resolve().parent / "golden" / "harmony.json").read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def written():
    """What a reader has who unfolds the solutions of chapter 01."""
    return {
        name: exercises.defined(one, one.solution)
        for (module, name), one in exercises.written().items()
        if module == "tokens"
    }


@pytest.mark.parametrize("name", GOLDEN)
def test_the_renderer_of_the_exercise_gives_openai_harmonys_goldens(name, written):
    ids, parser = GOLDEN[name], StreamParser()
    assert ids[-2] == START
    for token in ids[:-2]:
        parser.feed(token)
    messages = parser.messages
    if any(message.role == "user" and message.name for message in messages):
        pytest.skip("names of users are left out of the exercise")
    assert written["conversation"](messages, Tokenizer().encode) == ids
    assert tokens.right_conversation(messages) == ids


@pytest.mark.parametrize("header", tokens.HEADERS)
def test_the_header_of_the_exercise_is_read_like_the_package_reads_it(header, written):
    assert written["header"](header) == tokens.right_header(header)


def test_every_piece_of_the_vocabulary_is_glued_from_two_older_ones():
    """What section 2 says of o200k: 256 bytes, and then one piece per gluing."""
    ranks = {Tokenizer().token_bytes(token): token for token in range(FIRST_CONTROL)}
    assert len(ranks) == FIRST_CONTROL
    assert sorted(piece for piece in ranks if len(piece) == 1) == [bytes([b]) for b in range(256)]
    for piece in [piece for token, piece in enumerate(ranks) if token >= 256][::97]:
        pieces = [bytes([byte]) for byte in piece]
        while len(pieces) > 2:
            pairs = [
                (ranks.get(a + b, FIRST_CONTROL), i) for i, (a, b) in enumerate(pairwise(pieces))
            ]
            rank, at = min(pairs)
            assert rank < ranks[piece], piece
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        assert b"".join(pieces) == piece


def test_a_long_row_that_is_wrong_is_told_where():
    right = tokens.right_conversation
    verdict = tokens.conversation(lambda m, encode: right(m) if len(m) == 1 else [*right(m), 7])
    assert "the tokens at index 16, after" in verdict.sentence
    assert "(the end against 7)" in verdict.sentence
    verdict = tokens.conversation(lambda m, encode: right(m) if len(m) == 1 else right(m)[:9])
    assert "the tokens at index 9, after" in verdict.sentence
    assert "against the end)" in verdict.sentence


def test_a_row_inside_a_list_is_no_row():
    assert not tokens.conversation(lambda m, encode: [tokens.right_conversation(m)]).passed
