"""The prose of the course is English that an editor would pass: no false friends, standard terms.

A list, not a judge. Each entry is a kind that readers stumbled over, with what to write in its
place and a sentence that it has to find. What stands in quotes or in code is left alone.
"""

import ast
import re
from pathlib import Path

import exercises
import pytest
from course import SETUP
from test_contract import tagged

ROOT = Path(__file__).resolve().parents[2]
# (pattern, what to write in its place, a sentence that it finds)
FALSE_FRIENDS = [
    (r"\b[Gg]lu(?:es?|ed|ing)\b", "merge", "It repeats the gluing."),
    (r"\b(?:bends?|bent)\b", "activation function", "Then the wrong bends."),
    (r"\bleanings?\b", "a preference for what is near", "RoPE comes with a leaning."),
    (r"\b[Tt]o [\w ]{2,25} is (?:your|our|their|the) (?:work|job|task)\b",
     "it is up to you to …", "To stop is your work."),
    (r"\blooks? like work for\b", "looks like a job for", "It looks like work for a clerk."),
    (r"\bminds? (?:capital|upper|lower|line|space)", "distinguishes", "It minds capitals."),
    (r"\bwithout a (?:word|thought)\b", "silently, without thinking", "It ends without a word."),
    (r"\b(?:hang|hung)s? on (?:a|the|it|what|one)\b", "depend on", "It hangs on the order."),
    (r"\b(?:is|are|be|been|was) filled up\b", "padded", "What is short is filled up."),
    (r"\bgood half of both\b", "the best of both", "It takes the good half of both."),
    (r"\bis (?:there|here) (?:twice|once)\b", "occurs twice", "If it is there twice."),
    (r"\ba poor thing to\b", "hard to", "It is a poor thing to take apart."),
    (r"\beverything here is proven\b", "we prove", "So everything here is proven."),
    (r"\b[Ii]f it cannot be said\b", "if it is undefined", "If it cannot be said: inf."),
    (r"\b[Ii]ts wish is\b", "it should", "Its wish is to look back."),
    (r"\bcurves are one\b", "coincide", "The curves are one."),
    (r"\b(?:comes?|came) loose\b", "diverges", "The score comes loose."),
    (r"\b(?:thing )?must be said\b", "a caveat", "One thing must be said."),
    (r"\bto which we\b", "which we discuss later", "A number to which we come."),
    (r"\ball is there\b", "everything is in place", "Now all is there."),
    (r"\bis all the same\b", "does not matter", "The order is all the same."),
    (r"\blooks? after the\b", "attend to", "They look after the neighborhood."),
    (r"\bhas it at\b", "sets it to", "GPT-OSS has it at 1."),
    (r"\bcomes? of (?:the two|it)\b", "results from", "One number comes of the two."),
    (r"\bon a clock\b", "does it take longer", "Does it show on a clock?"),
    (r"\bperfect marks?\b", "full score", "It would get a perfect mark."),
    (r"\bno crossing over\b", "without exchanging lanes", "There is no crossing over."),
    (r"\bcome back from here on\b", "recur", "They come back from here on."),
    (r"\bthrough any more\b", "no longer lets through", "Nothing goes through any more."),
    (r"\bbut only just\b", "barely", "It fits, but only just."),
    (r"\bknows? neither\b", "independent of both", "A reference that knows neither."),
    (r"\bWhat (?:lies|stands)\b", "values below", "What lies below has no bar."),
    (r"\bknows? nothing of\b", "is independent of", "It knows nothing of batches."),
    (r"\bmeasurement knows\b", "shows", "A measurement knows."),
    (r"\bdifferent sports\b", "different problems", "They are two different sports."),
    (r"\bwould like to hear\b", "please report", "It is what we would like to hear."),
    (r"\bnext to nothing\b", "hardly anything", "It costs next to nothing."),
    (r"\bgoes on and on\b", "never stops", "A model that goes on and on."),
    (r"\bthe meanest\b", "the nastiest", "It is the meanest."),
    (r"\bgave these jobs out\b", "assigned", "Nobody gave these jobs out."),
    (r"\bOr luck\?", "or is it chance?", "Or luck?"),
    (r"\bin no time\b", "immediately", "It is there in no time."),
    (r"\b[Bb]esides (?:them|it)\b", "in addition", "And besides them bytes."),
    (r"\b(?:stands?|stood) (?:in|on|under|beside) (?:`|the (?:file|table|list|page|column))",
     "is in", "The others stand in `shapes.py`."),
    (r"\bin what it returns\b", "in the result", "There is a NaN in what it returns."),
    (r"\b(?:It|This|That) is not [^.!?\n]{1,60}\. (?:It|This|That) is\b",
     "one sentence", "It is not a bug. It is a rule."),
    (r"\b(?:allow|enable)s? to \w", "lets us", "This allows to see more."),
    (r"\b(?:information|software|advice|evidence)s\b", "no plural", "More informations."),
    (r"\bhow (?:it|this|that) looks like\b", "what it looks like", "See how it looks like."),
    (r"\bso[- ]called\b", "leave it out", "The so-called residual stream."),
    (r"\bconsists? (?:out of|from)\b", "consists of", "It consists out of layers."),
    (r"\bdespite of\b", "despite", "It works despite of that."),
]  # fmt: skip
# What the rest of the world calls it: each chapter says these words, so that a reader can go on.
STANDARD = {
    "01": "special token, chat template, pre-tokenization, merge",
    "02": "sinusoidal, complex number, interpolation, NTK",
    "03": "residual stream, attention sink, off by one, grouped-query attention",
    "04": "activation function, feed-forward, nonlinearity, auxiliary loss, Mixtral, Shazeer",
    "05": "quantization, block scale",
    "06": "residual stream, KV cache, logit lens",
    "07": "roofline, arithmetic intensity, HBM, MXU",
    "a1": "cross-entropy, auxiliary loss, optimizer, straight-through",
    "a2": "regression test, mutation testing, conformance",
}


def plain(text: str) -> str:
    """Markdown without code, without what is quoted, and without addresses."""
    text = re.sub(r"^ *```.*?^ *```|`[^`\n]+`", "`x`", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\]\([^)\s]*\)", "]", text)
    return re.sub(r"[\"“][^\"”\n]{0,80}[\"”]", '""', text)


def chapters() -> dict[str, str]:
    """Name -> the prose of a notebook."""
    found = {}
    for path in exercises.notebooks():
        cells = [c for c in exercises.cells_of(path) if c["cell_type"] == "markdown"]
        found[path.stem] = plain("\n\n".join(c["source"] for c in cells if not tagged(c, SETUP)))
    return found


def strings(path: Path) -> str:
    """What a module says: its strings and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    words = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    return "\n".join(word for word in words if isinstance(word, str) and " " in word)


def texts() -> dict[str, str]:
    """Everything that readers of the course read, by where it stands."""
    pages = {path.name: path for path in ROOT.glob("notebooks/*.md")}
    pages["course.yml"] = ROOT / "notebooks" / "course.yml"
    found = chapters() | {n: plain(p.read_text(encoding="utf-8")) for n, p in pages.items()}
    for path in sorted(ROOT.glob("gptoss_edu/course/**/*.py")):
        found[f"{path.parent.name}/{path.name}"] = plain(strings(path))
    return found


TEXTS = texts()


@pytest.mark.parametrize("name", TEXTS)
def test_no_false_friends(name):
    found = [
        f"{TEXTS[name][max(0, m.start() - 40) : m.end() + 30]!r}: write {instead!r}"
        for pattern, instead, _ in FALSE_FRIENDS
        for m in re.finditer(pattern, TEXTS[name])
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("chapter", STANDARD)
def test_standard_terms(chapter):
    (text,) = [text.lower() for name, text in TEXTS.items() if name.startswith(f"{chapter}_")]
    words = text.replace("-", " ").replace('"', "")
    missing = [t for t in STANDARD[chapter].split(", ") if t.lower().replace("-", " ") not in words]
    assert not missing, f"chapter {chapter} never says {missing}"


@pytest.mark.parametrize("pattern, instead, sentence", FALSE_FRIENDS)
def test_each_kind_finds_its_sentence(pattern, instead, sentence):
    assert re.search(pattern, plain(sentence))
    assert not re.search(pattern, plain(instead))


def test_quotes_code_and_addresses_are_left_alone():
    quoted = 'Our "glue", `bend`, [it](a#the-meanest) and\n```\ngluing\n```\n“without a word”.'
    assert not [pattern for pattern, _, _ in FALSE_FRIENDS if re.search(pattern, plain(quoted))]
