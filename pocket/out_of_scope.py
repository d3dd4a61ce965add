"""500 prompts about things that the pocket model never learned, to see that it says so.

Most were written by hand and stand in out_of_scope.json; the long ones are put together from them
and from the license, which every copy of the repository has. Noise fills up. No training prompt is
among them (a test looks).
"""

from __future__ import annotations

import json
import random
from pathlib import Path

LONG = 2000  # characters of a long text
PROMPTS = Path(__file__).with_suffix(".json")
LICENSE = Path(__file__).parent.parent / "LICENSE"


def noise(rng: random.Random, size: int) -> str:
    """Characters without sense, of one of four kinds."""
    ranges = rng.choice(((0x21, 0x7E), (0x61, 0x7A), (0x0430, 0x044F), (0x4E00, 0x9FFF)))
    return "".join(
        " " if rng.random() < 0.15 else chr(rng.randint(*ranges)) for _ in range(size)
    ).strip()


def long_texts(rng: random.Random, written: dict[str, list[str]]) -> list[str]:
    """Texts of 2,000 characters: the license, one question again and again, code, many languages,
    and noise."""
    text = LICENSE.read_text(encoding="utf-8")
    cuts = [text[at : at + LONG] for at in range(0, len(text) - LONG, 700)][:12]
    again = [(part + " ") * (LONG // len(part)) for part in rng.sample(written["general"], 8)]
    code = ["\n".join(rng.choices(written["code"], k=100))[:LONG] for _ in range(8)]
    mixed = [" ".join(rng.choices(written["other languages"], k=120))[:LONG] for _ in range(8)]
    return [*cuts, *again, *code, *mixed, *(noise(rng, LONG) for _ in range(8))]


def prompts(count: int = 500, seed: int = 5) -> list[tuple[str, str]]:
    """(kind, prompt), all different; noise of up to 60 characters fills up to `count`."""
    rng = random.Random(seed)
    written = json.loads(PROMPTS.read_text(encoding="utf-8"))
    kinds = written | {"long texts": long_texts(rng, written)}
    found = {text: kind for kind, texts in kinds.items() for text in texts}
    while len(found) < count:
        found[noise(rng, rng.randint(3, 60))] = "noise"
    return [(kind, text) for text, kind in found.items()][:count]
