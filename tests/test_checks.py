"""The checkers: each stub, solution and planted mistake gets its own answer, never a traceback.

Solutions and stubs are read from the notebooks, so what a reader unfolds is what is tested. A
planted mistake is a solution with one line changed, as a reader would get it wrong; the checkers'
own wrong versions are written in another way.
"""

import importlib
import json
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptoss_edu import checks
from gptoss_edu.attention import attention
from gptoss_edu.cache import Cache
from gptoss_edu.checks import Exercise, Mistake, Verdict, full_model, start_here
from gptoss_edu.model import block, rms_norm, rope_tables, unembed
from gptoss_edu.moe import moe
from gptoss_edu.mxfp4 import Mxfp4

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
CHAPTERS = {"00_start_here": start_here, "06_full_model": full_model}
USED = (Cache, Mxfp4, attention, block, moe, rms_norm, rope_tables, unembed)
NAMES = {"jax": jax, "jnp": jnp, "math": math, "np": np} | {used.__name__: used for used in USED}


def exercises(module) -> dict[str, Exercise]:
    return {key: value for key, value in vars(module).items() if isinstance(value, Exercise)}


ALL = {k: v for module in CHAPTERS.values() for k, v in exercises(module).items()}


def cells(stem, kind):
    notebook = json.loads((NOTEBOOKS / f"{stem}.ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def solutions() -> dict[str, str]:
    """Name of the exercise -> source of its folded solution."""
    folded = r"<summary>Solution</summary>\n\n```python\n(def my_(\w+)\(.*?)```"
    return {
        name: source
        for stem in CHAPTERS
        for cell in cells(stem, "markdown")
        for source, name in re.findall(folded, cell, re.DOTALL)
    }


def stubs() -> dict[str, str]:
    """Name of the exercise -> source of its cell in the notebook."""
    return {
        re.search(r"def my_(\w+)\(", cell)[1]: cell
        for stem in CHAPTERS
        for cell in cells(stem, "code")
        if "raise NotImplementedError" in cell
    }


def function(name, source):
    """What a reader has defined by running a cell."""
    scope = dict(NAMES)
    exec(compile(source, "<cell>", "exec"), scope)
    return scope[f"my_{name}"]


def attempt(name, *edits):
    """The solution with some pieces of its source replaced."""
    source = solutions()[name]
    for old, new in edits:
        assert source.count(old) >= 1, (old, source)
        source = source.replace(old, new)
    return function(name, source)


def test_notebooks_have_every_exercise_with_hints_and_one_line_that_checks():
    assert solutions().keys() == stubs().keys() == ALL.keys()
    for stem, module in CHAPTERS.items():
        prose = "\n".join(cells(stem, "markdown"))
        code = "\n".join(cells(stem, "code"))
        chapter = module.__name__.rsplit(".", 1)[1]
        assert len(exercises(module)) >= 3
        for name in exercises(module):
            assert f"\n{chapter}.{name}(my_{name})" in code
        for number in (1, 2, 3):
            assert prose.count(f"<summary>Hint {number}") == len(exercises(module))


@pytest.mark.parametrize("name", ALL)
def test_untouched_stub_is_not_attempted_yet(name):
    definition = re.search(r"def my_\w+\(.*?raise NotImplementedError", stubs()[name], re.DOTALL)[0]
    verdict = ALL[name](function(name, definition))
    assert repr(verdict) == f"· {name}: not attempted yet"
    assert not verdict.passed


@pytest.mark.parametrize("name", ALL)
def test_solution_passes(name):
    verdict = ALL[name](attempt(name))
    assert verdict.passed, verdict
    assert verdict.sentence


ADD = ("x_BTD = x_BTD + y_BTD", "x_BTD = y_BTD")
NORM_1 = "rms_norm(x_BTD, layer.attention.norm_D, config.rms_eps)"
NORM_2 = "rms_norm(x_BTD, layer.moe.norm_D, config.rms_eps)"
RETURN = "return x_BTD + y_BTD, kv"
NEW_CACHE = "Cache(tuple(stores), cache.length_B + 1)"
COLUMN = "cache.length_B[:, None]"
KEPT = "kept_V = np.cumsum(p_V) - p_V < p"
ANSWER = "return np.where(allowed_V, logits_V, -np.inf)"
MAXIMUM = "np.max(np.abs(a - b))"
PLANTED = [
    ("block", "no residual around attention", [ADD]),
    ("block", "no residual around the experts", [(RETURN, "return y_BTD, kv")]),
    ("block", "no norm before attention", [(NORM_1, "x_BTD")]),
    ("block", "no norm before the experts", [(NORM_2, "x_BTD")]),
    ("block", "the normed stream is kept", [("h_BTD = rms", "x_BTD = h_BTD = rms")]),
    (
        "block",
        "post-norm",
        [
            (f"h_BTD = {NORM_1}", "h_BTD = x_BTD"),
            (f"h_BTD = {NORM_2}", f"h_BTD = x_BTD = {NORM_1}"),
            (RETURN, f"x_BTD = x_BTD + y_BTD\n    return {NORM_2}, kv"),
        ],
    ),
    ("block", "one norm for both halves", [("moe.norm_D", "attention.norm_D")]),
    (
        "block",
        "swapped norms",
        [("moe.norm_D", "X"), ("attention.norm_D", "moe.norm_D"), ("X", "attention.norm_D")],
    ),
    (
        "block",
        "both halves read the same stream",
        [
            ("    x_BTD = x_BTD + y_BTD\n", ""),
            ("y_BTD, _ =", "more_BTD, _ ="),
            (RETURN, "return x_BTD + y_BTD + more_BTD, kv"),
        ],
    ),
    ("block", "the window is ignored", [(" kv, window)\n", " kv, None)\n")]),
    ("block", "the old store is returned", [("y_BTD, kv, _ =", "y_BTD, _, _ =")]),
    ("decode_step", "position one too late", [(COLUMN, f"{COLUMN} + 1")]),
    ("decode_step", "position one too early", [(COLUMN, f"{COLUMN} - 1")]),
    ("decode_step", "position zero", [(COLUMN, "jnp.zeros((len(token_B), 1), int)")]),
    (
        "decode_step",
        "one position for all prompts",
        [(COLUMN, "jnp.full((len(token_B), 1), int(cache.length_B[0]))")],
    ),
    (
        "decode_step",
        "the longest prompt's position for all",
        [(COLUMN, "jnp.full((len(token_B), 1), int(max(cache.length_B)))")],
    ),
    ("decode_step", "odd layers slide", [("config.window(index)", "config.window(1 - index)")]),
    ("decode_step", "odd layers slide", [("config.window(index)", "config.sliding_window")]),
    (
        "decode_step",
        "no last norm",
        [("unembed(params, x_B1D, config.rms_eps)", "x_B1D @ params.unembedding_DV")],
    ),
    ("decode_step", "the old cache is returned", [(NEW_CACHE, "cache")]),
    ("decode_step", "the length does not grow", [("cache.length_B + 1", "cache.length_B")]),
    ("decode_step", "the stores are not kept", [("tuple(stores)", "cache.layers")]),
    (
        "top_p",
        "the token that crosses p is dropped",
        [(KEPT, "kept_V = np.cumsum(p_V) <= p")],
    ),
    ("top_p", "sorted upward", [("argsort(-logits_V)", "argsort(logits_V)")]),
    ("top_p", "the mask is left in sorted order", [("order_V[kept_V]", "kept_V")]),
    (
        "top_p",
        "the sorted logits are returned",
        [(ANSWER, "return np.where(kept_V, logits_V[order_V], -np.inf)")],
    ),
    (
        "top_p",
        "logits are added up",
        [("p_V = np.exp(logits_V[order_V] - logits_V.max())\n    p_V = p_V / p_V.sum()",
          "p_V = logits_V[order_V]")],
    ),
    ("top_p", "each token is compared with p", [(KEPT, "kept_V = p_V >= p")]),
    ("top_p", "1 - p", [("- p_V < p", "- p_V < 1 - p")]),
    ("top_p", "zero instead of minus infinity", [("-np.inf", "0")]),
    (
        "top_p",
        "probabilities are returned",
        [(ANSWER, "q_V = np.exp(logits_V)\n    return np.where(allowed_V, q_V / q_V.sum(), 0)")],
    ),
    (
        "top_p",
        "renormalized probabilities are returned",
        [(ANSWER, "q_V = allowed_V * np.exp(logits_V)\n    return q_V / q_V.sum()")],
    ),
    ("by_channel", "only the last piece", [("texts.get(piece.channel, \"\") + piece", "piece")]),
    (
        "by_channel",
        "only the first piece",
        [('texts.get(piece.channel, "") + piece.text', "texts.get(piece.channel, piece.text)")],
    ),
    (
        "by_channel",
        "joined with spaces",
        [
            ('texts.get(piece.channel, "") + piece', '(texts.get(piece.channel, "") + " " + piece'),
            (".text\n", ".text).removeprefix(' ')\n"),
        ],
    ),
    (
        "by_channel",
        "lists instead of text",
        [('""', "[]"), ("+ piece.text", "+ [piece.text]")],
    ),
    (
        "by_channel",
        "spaces are stripped",
        [("return texts", "return {k: v.strip() for k, v in texts.items()}")],
    ),
    ("by_channel", "spaces of each piece are stripped", [("piece.text", "piece.text.strip()")]),
    (
        "by_channel",
        "a channel that comes back begins anew",
        [
            ("texts = {}", "texts, before = {}, None"),
            (
                'texts[piece.channel] = texts.get(piece.channel, "") + piece.text',
                'kept = texts[piece.channel] if piece.channel == before else ""\n'
                "        texts[piece.channel], before = kept + piece.text, piece.channel",
            ),
        ],
    ),
    (
        "by_channel",
        "only the final channel",
        [("return texts", "return {'final': texts['final']}")],
    ),
    ("count_parameters", "bytes", [("math.prod(leaf.shape)", "leaf.nbytes"), ("Mxfp4", "str")]),
    ("count_parameters", "arrays", [("math.prod(leaf.shape)", "1"), ("Mxfp4", "str")]),
    ("count_parameters", "one layer", [("leaves(params,", "leaves([vars(params)[n] if n != 'layers'"
     " else params.layers[0] for n in vars(params)],")]),
    ("count_parameters", "layers only", [("leaves(params,", "leaves(params.layers,")]),
    (
        "count_parameters",
        "tied embedding",
        [("leaves(params,", "leaves([params.embedding_VD, params.layers, params.norm_D],")],
    ),
    ("count_parameters", "a byte is one weight", [("Mxfp4", "str")]),
    (
        "count_parameters",
        "scales are counted",
        [("math.prod(leaf.shape)", "leaf.size * (1 + (leaf.dtype == 'uint8'))"), ("Mxfp4", "str")],
    ),
    (
        "count_parameters",
        "scales are counted once",
        [("math.prod(leaf.shape)", "leaf.size * (1 + (leaf.dtype == 'uint8' and leaf.ndim == 4))"),
         ("Mxfp4", "str")],
    ),
    ("largest_difference", "signed", [(MAXIMUM, "np.max(a - b)")]),
    ("largest_difference", "absolute value of the maximum", [(MAXIMUM, "abs(a.max() - b.max())")]),
    ("largest_difference", "mean", [("np.max(", "np.mean(")]),
    ("largest_difference", "sum", [("np.max(", "np.sum(")]),
    ("largest_difference", "relative", [(MAXIMUM, "np.max(np.abs((a - b) / b))")]),
    ("largest_difference", "NaN is skipped", [("np.max(", "np.nanmax(")]),
    ("largest_difference", "NaN is returned", [("math.inf if math.isnan(largest) else ", "")]),
    (
        "largest_difference",
        "shapes are broadcast",
        [("    if a.shape != b.shape:\n        return math.inf\n", "")],
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    "name, mistake, edits", PLANTED, ids=[f"{name}: {mistake}" for name, mistake, _ in PLANTED]
)
def test_planted_mistake_gets_its_own_sentence(name, mistake, edits):
    verdict = ALL[name](attempt(name, *edits))
    assert verdict.mistake == mistake, verdict
    assert verdict.status == "not yet right"
    (known,) = [known for known in ALL[name].mistakes if known.name == mistake]
    assert verdict.sentence == known.sentence


def test_every_mistake_is_planted_and_has_a_sentence_of_its_own():
    planted = {(name, mistake) for name, mistake, _ in PLANTED}
    known = {(name, mistake.name) for name in ALL for mistake in ALL[name].mistakes}
    assert planted == known
    sentences = [mistake.sentence for name in ALL for mistake in ALL[name].mistakes]
    assert len(sentences) == len(set(sentences))
    assert all(len(ALL[name].mistakes) >= 5 for name in ALL)


CHEATS = {
    "returns its first argument": lambda *arguments: arguments[0],
    "returns its last argument": lambda *arguments: arguments[-1],
    "returns its arguments": lambda *arguments: arguments,
    "returns two of them": lambda *arguments: (arguments[1], arguments[-1]),
    "returns a number": lambda *_: 3.0,
    "returns a text": lambda *_: "right",
    "returns a list": lambda *_: [1, 2],
    "returns zeros": lambda *_: np.zeros(7, np.float32),
    "returns an empty dict": lambda *_: {},
    "returns infinity": lambda *_: math.inf,
}


@pytest.mark.parametrize("cheat", CHEATS)
@pytest.mark.parametrize("name", ALL)
def test_no_constant_and_no_input_passes(name, cheat):
    verdict = ALL[name](CHEATS[cheat])
    assert verdict.status == "not yet right", verdict
    assert verdict.sentence


@pytest.mark.parametrize("name", ALL)
def test_what_is_no_function_is_told_so(name):
    for wrong in (None, 3, np.zeros(2), "my_function"):
        assert ALL[name](wrong).mistake == "not a function"


@pytest.mark.parametrize("name", ALL)
def test_missing_return_and_errors_are_sentences(name):
    assert "Is there a `return`" in ALL[name](lambda *_: None).sentence

    def failing(*_):
        numbers = [1, 2]
        return numbers[2]

    verdict = ALL[name](failing)
    assert verdict.mistake == "it raises"
    assert "line 3 of your function with IndexError: list index out of range" in verdict.sentence
    wrong = ALL[name](lambda: 1)
    assert "TypeError" in wrong.sentence
    assert "argument" in wrong.sentence


@pytest.mark.parametrize(
    "name, edits, expected",
    [
        ("block", [(", kv\n", ", kv, None\n")], "2 things, (x_BTD, kv), and returned a tuple of 3"),
        ("block", [("x_BTD + y_BTD, kv", "(x_BTD + y_BTD)[0], kv")], "shape (2, 3, 24), found (3"),
        ("block", [("x_BTD + y_BTD, kv", "x_BTD + y_BTD, [kv]")], "kv should be a FullKV, found a"),
        (
            "block",
            [("x_BTD + y_BTD, kv", "(x_BTD + y_BTD).astype(jnp.bfloat16), kv")],
            "x_BTD should be float32, found bfloat16",
        ),
        ("decode_step", [("logits_B1V[:, 0]", "logits_B1V")], "(2, 31), found (2, 1, 31)"),
        ("decode_step", [(NEW_CACHE, "tuple(stores)")], "should be a Cache, found a tuple of 2"),
        ("decode_step", [("tuple(stores)", "stores")], "its parts are not those expected"),
        ("top_p", [(ANSWER, "return logits_V[allowed_V]")], "should have shape (7,), found ("),
        ("top_p", [(ANSWER, "return allowed_V")], "should be float32, found bool"),
        ("top_p", [(ANSWER, "return list(logits_V)")], "should be an array, found a list of 7"),
        ("by_channel", [("return texts", "return list(texts)")], "should be a dict, found a list"),
        ("count_parameters", [("return sum", "return str")], "should be a number, found a str"),
        ("largest_difference", [(MAXIMUM, "np.max(np.abs(a - b), axis=0)")], "TypeError"),
    ],
)  # fmt: skip
def test_wrong_shape_dtype_and_type_are_told(name, edits, expected):
    verdict = ALL[name](attempt(name, *edits))
    assert verdict.status == "not yet right"
    assert expected in verdict.sentence, verdict


def test_unknown_mistake_says_how_far_off_it_is():
    verdict = full_model.top_p(lambda logits_V, p: full_model.right_top_p(logits_V, p) - 1)
    assert verdict.mistake == "unknown"
    assert "they differ by up to 1" in verdict.sentence
    verdict = full_model.top_p(lambda logits_V, p: np.full_like(logits_V, np.nan))
    assert verdict.mistake == "nan"
    verdict = start_here.by_channel(lambda pieces: {"final": "?"})
    assert "found {'final': '?'}" in verdict.sentence


def test_an_attempt_cannot_spoil_the_inputs():
    def greedy(logits_V, p):
        logits_V[:] = 0
        return logits_V

    assert full_model.top_p(greedy).status == "not yet right"
    assert full_model.top_p(attempt("top_p")).passed


def test_other_kinds_of_arrays_are_welcome():
    right = attempt("top_p")
    assert full_model.top_p(lambda logits_V, p: jnp.asarray(right(logits_V, p))).passed
    assert full_model.top_p(lambda logits_V, p: right(logits_V, p).astype(np.float64)).passed
    assert start_here.largest_difference(
        lambda a, b: np.float64(start_here.right_difference(a, b))
    ).passed


def test_two_mistakes_that_agree_on_one_case_are_told_apart_by_the_others():
    def off_by(number):
        return lambda x: x + number if x > 1 else x + 9

    exercise = Exercise(
        "twice",
        lambda x: 2 * x,
        ("the double",),
        lambda: [(1,), (5,), (7,)],
        [Mistake("one more", "a", off_by(1)), Mistake("two more", "b", off_by(2))],
    )
    assert exercise(off_by(1)).mistake == "one more"
    assert exercise(off_by(2)).mistake == "two more"
    assert exercise(lambda x: 2 * x).passed


def test_verdicts_look_alike_everywhere():
    verdict = Verdict("top_p", "not yet right", "p < 1 & more", "x")
    assert repr(verdict) == "✗ top_p: not yet right: p < 1 & more"
    assert "p &lt; 1 &amp; more" in verdict._repr_html_()
    assert repr(Verdict("block", "passed", "Good.")) == "✓ block: passed: Good."
    for color in checks.COLORS.values():
        levels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
        assert 1.05 / (np.dot(linear, [0.2126, 0.7152, 0.0722]) + 0.05) >= 4.5, color


def test_checkers_are_modules_named_after_their_chapter():
    for stem, module in CHAPTERS.items():
        assert importlib.import_module(f"gptoss_edu.checks.{stem[3:]}") is module
