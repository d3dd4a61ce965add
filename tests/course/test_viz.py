"""The figures: live data in, an image and a sentence out, and colors that everybody can read."""

import ast
import dataclasses
import html
import itertools
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from looks import check, contrast, size, without_green_cones

from gptoss_edu.cache import FullKV, RingKV
from gptoss_edu.config import GPT_OSS_20B, TINY
from gptoss_edu.course import viz
from gptoss_edu.course.viz import colors, look, sampling
from gptoss_edu.parser import Piece, StreamParser
from gptoss_edu.reply import make_reply
from gptoss_edu.sampling import Sampling
from gptoss_edu.tokenizer import CHANNEL, END, MESSAGE, RETURN, START, Tokenizer


def said(channel, text, last):
    encode = Tokenizer().encode
    return [CHANNEL, *encode(channel), MESSAGE, *encode(text), last]


@pytest.fixture(scope="module")
def ids():
    """13 tokens of headers and ends, the rest spoken on two channels."""
    opening = [START, *Tokenizer().encode("assistant")]
    return [
        *said("analysis", "r in rose: r1 o1 s1 e1.", END),
        *opening,
        *said("final", "1", RETURN),
    ]


@pytest.fixture(scope="module")
def reply(ids):
    parser = StreamParser()
    for token in ids:
        parser.feed(token)
    return make_reply(parser, prompt_ids=[1], token_ids=ids, finish_reason="stop", stats=None)


def test_a_live_page_gets_the_sentence_as_alternative_text(monkeypatch):
    def fill(figure):
        figure.subplots()

    picture = viz.draw(fill, 'One "empty" plot of <b> & a.', width=3, height=1.5)
    kept, metadata = picture._repr_mimebundle_()
    assert set(kept) == {"image/png", "text/plain"}, "bytes that differ would be compared"
    monkeypatch.delenv(look.STATIC)
    live, same = picture._repr_mimebundle_()
    assert same == metadata
    assert live == {**kept, "text/html": picture.to_html()}
    (found,) = re.findall(r'<img alt="([^"]*)" width="288" height="144" ', live["text/html"])
    assert html.unescape(found) == picture.alt
    assert f'src="data:image/png;base64,{kept["image/png"]}">' in live["text/html"]


def test_importing_needs_no_matplotlib():
    for path in Path(viz.__file__).parent.glob("*.py"):
        top = ast.parse(path.read_text(encoding="utf-8")).body
        lines = [ast.unparse(node) for node in top if isinstance(node, ast.Import | ast.ImportFrom)]
        assert lines or path.stem == "colors", path
        assert not [line for line in lines if "matplotlib" in line or "ipywidgets" in line], path


def test_labels_show_what_cannot_be_seen():
    encode = Tokenizer().encode
    assert viz.label(RETURN) == "<|return|>"
    assert viz.label(encode(" straw")[0]) == "·straw"
    assert viz.label(encode("\n")[0]) == "↵"
    assert viz.label(encode(" international")[0], 6) == "·inte…"
    broken = Tokenizer().encode("🍓")[-1]
    assert "\ufffd" in viz.label(broken)
    (bell,) = encode("\x07")
    assert viz.label(bell) == "\ufffd"


def test_strip_shows_text_and_ids_and_escapes_them(ids):
    strip = viz.token_strip(ids, reply=True)
    assert repr(strip).startswith("<|channel|>(200005) analysis(35644) <|message|>(200008) r(81)")
    page = strip._repr_html_()
    assert "&lt;|channel|&gt;" in page
    assert "<|" not in page
    assert page.count('role="listitem"') == len(ids)
    assert colors.TINTS["analysis"] in page
    assert colors.TINTS["final"] in page
    assert colors.TINTS["final"] not in viz.token_strip(ids)._repr_html_()


def test_stream_in_color_names_each_channel_once():
    pieces = [Piece("analysis", "a ", ()), Piece("analysis", "b", ()), Piece("final", "c", ())]
    text = "".join(viz.in_color(pieces))
    assert text == "\x1b[35manalysis | a b\x1b[0m\n\x1b[32mfinal | c\x1b[0m\n"
    assert list(viz.in_color([])) == []
    assert "".join(viz.in_color([Piece(None, "x", ())])) == "text | x\x1b[0m\n"


def test_stream_in_color_yields_each_piece_before_asking_for_the_next():
    def pieces():
        yield Piece("final", "one", ())
        raise AssertionError("asked for more before the first was shown")

    shown = viz.in_color(pieces())
    assert [next(shown), next(shown)] == ["\x1b[32mfinal | ", "one"]


def test_timeline_counts_tokens_by_channel(reply, ids):
    alt = check(viz.harmony_timeline(reply))
    spoken = len(Tokenizer().encode("r in rose: r1 o1 s1 e1."))
    assert f"{spoken} tokens on analysis, 1 tokens on final" in alt
    assert f"{len(ids) - spoken - 1} tokens of headers and ends" in alt
    assert "<|return|>" in alt


def test_timeline_of_a_long_reply_has_rows_and_stays_narrow(reply):
    long = viz.harmony_timeline(dataclasses.replace(reply, token_ids=reply.token_ids * 5))
    assert size(long)[1] > 2 * size(viz.harmony_timeline(reply))[1]
    check(long)


def test_sampling_panels_tell_how_many_tokens_are_left():
    logits_V = np.log([0.5, 0.02, 0.3, 0.08, 0.1])
    settings = {
        "greedy": Sampling(),
        "plain": Sampling(temperature=1.0),
        "top-k 2": Sampling(temperature=1.0, top_k=2),
        "top-p 0.85": Sampling(temperature=1.0, top_p=0.85),
        "min-p 0.18": Sampling(temperature=1.0, min_p=0.18),
    }
    alt = check(viz.sampling_panels(logits_V, Tokenizer().encode("a b c d e"), settings, top=5))
    assert "greedy 1, plain 5, top-k 2 2, top-p 0.85 3, min-p 0.18 3." in alt


def test_temperature_sharpens_the_distribution_that_is_drawn():
    logits_V = np.log([0.6, 0.4])
    cold_V = sampling._probabilities(logits_V, Sampling(temperature=0.5))
    np.testing.assert_allclose(cold_V, [0.36 / 0.52, 0.16 / 0.52], rtol=1e-6)
    assert sampling._probabilities(logits_V, Sampling()).tolist() == [1, 0]


def test_lens_marks_the_guesses_that_came_true():
    ids = Tokenizer().encode(" a b c d")
    logits_LTV = np.zeros((3, 2, 4))
    logits_LTV[2, 0, 1] = logits_LTV[1, 0, 1] = 9
    logits_LTV[2, 1, 3] = 9
    alt = check(viz.logit_lens_table(logits_LTV, ids[:2], [ids[1], ids[3]], ids))
    assert alt.endswith("Right guesses of 2: embedding 0, after layer 0 1, after layer 1 2.")


def test_cache_picture_tells_positions_and_empty_slots():
    def zeros(slots):
        return jnp.zeros((2, 1, slots, 2))

    full = FullKV(zeros(5), zeros(5), jnp.array([[0, 1, -1, -1, -1], [0, 1, 2, 3, -1]]))
    ring = RingKV(zeros(3), zeros(3), jnp.array([[0, 1, -1], [3, 1, 2]]))
    alt = check(viz.cache_picture([("full", full), ("ring", ring)], row=1))
    assert alt.endswith("full: 0 1 2 3 -. ring: 3 1 2.")


@pytest.mark.parametrize("config", [TINY, GPT_OSS_20B], ids=["tiny", "20b"])
def test_diagram_has_the_numbers_of_the_model(config):
    alt = check(viz.network_diagram(config))
    assert f"{config.vocab_size:,} rows of {config.hidden_size}" in alt
    assert f"{config.experts_per_token} of {config.num_experts} experts" in alt


def test_dots_say_how_far_and_which_change_gives_another_text():
    changes = {
        "nothing": (0.0, False),
        "ε": (3.8e-6, False),
        "no norm": (31.4, True),
        "far": (6e-4, False),
    }
    alt = check(viz.difference_bars(changes, unit="largest change of a logit", margin=0.3))
    assert alt == (
        "Dots: largest change of a logit, tolerance 10⁻⁴. nothing: within the tolerance, same text;"
        " ε: within the tolerance, same text; no norm: about 30, other text;"
        " far: under 0.001, same text."
    )


def test_rings_part_from_full_stores_at_the_window():
    alt = check(viz.cache_sizes(GPT_OSS_20B))
    assert "every key on every layer 6 GiB; rings on sliding layers 3 GiB" in alt
    assert "part at the window of 128" in alt


def test_a_time_line_counts_its_steps_and_tells_no_times():
    calls = {"first": [("compile", 3.0), ("prefill", 0.1), ("decode", 0.01), ("decode", 0.02)]}
    alt = check(viz.generation_timeline(calls))
    assert alt == "Time lines. first: 1 × compile, 1 × prefill, 2 × decode."


def test_the_sampling_panel_sorts_every_token():
    logits_V, ids = np.array([0.0, 2.0, 1.0]), [40, 41, 42]
    panel = viz.sampling_sliders({"here": logits_V}, ids)
    assert panel.data["here"]["logits"].tolist() == [0.0, -1.0, -2.0]
    assert panel.data["here"]["names"] == [viz.label(41), viz.label(42), viz.label(40)]


def test_text_stands_out_from_what_it_is_written_on():
    for ground in (colors.PAPER, colors.PALE, *colors.TINTS.values()):
        assert contrast(colors.INK, ground) >= 7, ground
    assert contrast("#ffffff", colors.VERMILION) >= 3  # bold, in the one box that stops
    assert contrast(colors.INK, colors.PAPER) >= 7


@pytest.mark.parametrize(
    "colors",
    [
        (colors.BLUE, colors.VERMILION, colors.PAPER),  # kept, ruled out
        (colors.SKY, colors.VERMILION, colors.PAPER),  # same answer, another answer
        (colors.SKY, colors.ORANGE, colors.GREEN, colors.PALE),  # parts of the network
        (colors.TINTS["analysis"], colors.TINTS["final"], colors.TINTS[None]),
    ],
)
def test_colors_differ_for_the_color_blind_too(colors):
    for a, b in itertools.combinations(colors, 2):
        assert np.linalg.norm(without_green_cones(a) - without_green_cones(b)) > 14, (a, b)
