"""Figures about tokens and messages: live data in, an image and a sentence out."""

import pytest
from looks import check

from gptoss_edu.course import viz
from gptoss_edu.course.viz import tokens
from gptoss_edu.harmony import render
from gptoss_edu.tokenizer import CALL, CHANNEL, END, MESSAGE, RETURN, START, Tokenizer

ENCODE = Tokenizer().encode
STATES = ("between", "role", "channel", "text")


def test_rows_of_tokens_are_named_and_counted():
    rows = viz.token_rows({"one": ENCODE(" strawberry"), "longer name": ENCODE("strawberry")})
    assert repr(rows) == (
        "one            1 token: ·strawberry(101830)\n"
        "longer name   3 tokens: st(302) raw(1618) berry(19772)"
    )
    shown = rows._repr_html_()
    assert shown.count("<tr>") == 2
    assert "1 token</td>" in shown
    assert repr(viz.token_rows({})) == ""


def test_captions_and_tokens_cannot_carry_html():
    shown = viz.token_rows({"<b>&": ENCODE("<script>")})._repr_html_()
    assert "<b>" not in shown
    assert "<script>" not in shown
    assert "&lt;b&gt;&amp;" in shown


def test_a_box_to_type_into_is_strips_first(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    box = viz.type_and_see("a strawberry", "line\nend")
    assert repr(box).startswith("a strawberry")
    assert "line↵end" in repr(box)
    monkeypatch.setenv("GPTOSS_EDU_STATIC", "1")
    box._ipython_display_()
    assert shown == [box.examples]
    monkeypatch.delenv("GPTOSS_EDU_STATIC")
    box._ipython_display_()
    assert len(shown) == 3
    field, strip = shown[-1].children
    assert field.value == "a strawberry"
    assert "101830" in strip.value
    field.value = "<|end|> \u00e9"
    assert "8 bytes" not in strip.value
    assert "10 bytes, 6 tokens" in strip.value
    assert "200007" not in strip.value, "what is typed is never a control token"
    field.value = ""
    assert "0 bytes, 0 tokens" in strip.value
    with pytest.raises(ValueError, match="expected at least one"):
        viz.type_and_see()


def test_merges_are_told_in_order():
    ranks = {b"an": 270, b"ana": 1480, b"ba": 9, b"\xc3\xa9": 377}
    steps = [[b"b", b"a", b"n", b"a"], [b"b", b"an", b"a"], [b"b", b"ana"]]
    picture = viz.merge_steps(iter(steps), ranks)
    check(picture)
    assert "an (270), ana (1480). At the end: 2 pieces" in picture.alt
    check(viz.merge_steps([[b"\xc3", b"\xa9"], [b"\xc3\xa9"]], ranks))
    check(viz.merge_steps([[b"x"]], ranks))


def test_pieces_that_are_no_text_are_hexadecimal():
    assert tokens.piece_text(b"\xf0\x9f") == "f0 9f"
    assert tokens.piece_text(b" a\n") == "·a↵"
    assert tokens.piece_text(b"\x00") == "00"


def test_bars_tell_all_three_numbers():
    picture = viz.count_bars({"crab": "🦀", "word": " strawberry"})
    check(picture)
    assert "crab 1, 4, 3; word 11, 11, 1" in picture.alt


def test_messages_stand_in_columns():
    picture = viz.message_table(render("Hi"))
    check(picture)
    assert picture.alt.startswith("3 messages: system with 46 tokens of text closed by end; user")
    assert picture.alt.endswith("assistant left open.")
    call = [START, *ENCODE("assistant to=f"), CHANNEL, *ENCODE("commentary"), MESSAGE, 90, CALL]
    picture = viz.message_table(call)
    assert "assistant to=f on commentary with 1 token of text closed by call" in picture.alt
    check(viz.message_table([START, *ENCODE("user"), MESSAGE, *ENCODE("long " * 99), END]))
    check(viz.message_table(ENCODE("no mark at all")))


def test_states_are_drawn_where_the_parser_was():
    ids = [CHANNEL, *ENCODE("final"), MESSAGE, *ENCODE("Three."), RETURN]
    states = ["channel", "channel", "text", "text", "text", "between"]
    picture = viz.parser_states(list(zip(ids, states, strict=True)), STATES)
    check(picture)
    assert "channel 2, text 3, between 1" in picture.alt
    check(viz.parser_states([(90, "text")] * 100, STATES))
    check(viz.parser_states([], STATES))


def test_parts_of_a_message_are_found_in_any_order():
    found = tokens._parts([90, START, 91, MESSAGE, 92, END, 93, CHANNEL, 94])
    assert found[0] == {"role": [90]}
    assert found[1] == {"role": [91], "text": [92, 93], "end": [END], "channel": [94]}


def test_a_marked_message_says_why():
    ids = [START, 90, MESSAGE, 91, END, START, 92, MESSAGE, 93, END]
    alt = check(viz.message_table(ids, marked={1: "forged"}))
    assert alt.count("(forged)") == 1
    assert alt.endswith("closed by end (forged).")
