"""Text and numbers: the o200k_harmony vocabulary, and subsets of it for small models.

A tokenizer cuts UTF-8 bytes into pieces that occur often and numbers them. GPT-OSS uses OpenAI's
o200k vocabulary plus control tokens (`<|start|>`, `<|message|>`, ...) that mark where a message
begins and who speaks. Two numberings meet here. An *id* is the true o200k_harmony number, the only
one shown to people; a *row* is a line of a model's embedding matrix. For GPT-OSS they are equal; a
small model keeps a few thousand ids, and row r stands for id kept_ids[r].

Source: openai-harmony 0.0.8, which does the encoding, and its vocabulary `o200k_base.tiktoken`,
which ships in this package: nothing is downloaded.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
import os
import re
import threading
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from openai_harmony import HarmonyEncoding

STARTOFTEXT, ENDOFTEXT = 199998, 199999
RETURN, CONSTRAIN, CHANNEL, START = 200002, 200003, 200005, 200006
END, MESSAGE, CALL = 200007, 200008, 200012
# Not END: it closes the analysis message, and the answer comes after it.
STOP_TOKENS = (RETURN, CALL, ENDOFTEXT)

# Rows of GPT-OSS's embedding. openai-harmony also knows id 201088, one past the last row, where JAX
# would silently read row 201087 instead.
FULL_VOCAB = 201088
FIRST_CONTROL = 199998

VOCABULARY_FILE = "o200k_base.tiktoken"
VOCABULARY_VARIABLE = "TIKTOKEN_ENCODINGS_BASE"
_ENVIRONMENT = threading.Lock()

# Byte pair merging costs the square of the length of one uncut stretch: 30,000 equal letters take
# 0.3 s, a million spaces end in a crash. 2,048 keeps a million characters under a second.
MAX_RUN = 2048


@functools.lru_cache(maxsize=1)
def load_encoding() -> HarmonyEncoding:
    """The openai-harmony encoding of GPT-OSS, loaded once per process (0.4 s) without a network.

    Raises FileNotFoundError where the vocabulary that ships with this package is missing or
    damaged: its sha256 is looked at whenever it is loaded.
    """
    import openai_harmony

    folder = Path(__file__).parent / "data"
    with _ENVIRONMENT:
        before = os.environ.get(VOCABULARY_VARIABLE)
        os.environ[VOCABULARY_VARIABLE] = str(folder)
        try:
            return openai_harmony.load_harmony_encoding("HarmonyGptOss")
        except openai_harmony.HarmonyError as error:
            raise FileNotFoundError(
                f"{folder / VOCABULARY_FILE} is missing or damaged ({error}); it belongs to this"
                " package: install it again"
            ) from error
        finally:
            del os.environ[VOCABULARY_VARIABLE]
            if before is not None:
                os.environ[VOCABULARY_VARIABLE] = before


@functools.lru_cache(maxsize=FULL_VOCAB)
def _bytes_of(token: int) -> bytes:
    # surrogateescape, there and back, keeps bytes that are not UTF-8 on their own.
    text: str = load_encoding().decode([token], errors="surrogateescape")
    return text.encode("utf-8", "surrogateescape")


@functools.lru_cache(maxsize=1)
def byte_ids() -> tuple[int, ...]:
    """The ids of the 256 single-byte tokens: entry b is the id of byte b."""
    return tuple(sorted(range(256), key=_bytes_of))


def _kind(character: str) -> str:
    kind = {"L": "letter", "M": "letter", "N": "number"}.get(unicodedata.category(character)[0])
    return "space" if character.isspace() else kind or "symbol"


def bounded(text: str, limit: int = MAX_RUN) -> Iterator[str]:
    """Cuts `text` inside stretches of one kind longer than `limit`; other text stays whole.

    Kinds are spaces, letters and symbols: only within one kind is a stretch merged as a whole
    (digits never are: they go in threes). Ordinary text, however long, comes back in one piece, so
    its encoding is untouched. The pieces always join to `text`.
    """
    start = 0
    # The lookbehinds let a match start only where a stretch does: linear time on any text.
    long = rf"(?<!\s)\s{{{limit + 1},}}|(?<!\S)\S{{{limit + 1},}}"
    for candidate in re.finditer(long, text):
        end = candidate.start()
        for kind, group in itertools.groupby(candidate.group(), _kind):
            begin, end = end, end + sum(1 for _ in group)
            for cut in range(begin + limit, end, limit) if kind != "number" else ():
                yield text[start:cut]
                start = cut
    if start < len(text) or not text:
        yield text[start:]


def check_text(text: object, what: str = "text") -> str:
    """Returns `text`, or raises: TypeError if it is not a str, ValueError on a lone surrogate."""
    if not isinstance(text, str):
        hint = "decode bytes with .decode('utf-8') first"
        raise TypeError(f"{what} is a {type(text).__name__}, but a str was expected; {hint}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} has a lone surrogate, {text[error.start]!r} at position {error.start}, but"
            " only Unicode text that UTF-8 can write was expected; read the source with the right"
            " encoding, or clean it with text.encode('utf-8', 'replace').decode()"
        ) from None
    return text


def _numbers(given: Iterable[int], what: str = "token id", limit: int = FULL_VOCAB) -> list[int]:
    """Lists, NumPy and JAX arrays of whole numbers from 0 to limit - 1, as a list of int."""
    if hasattr(given, "tolist"):
        given = given.tolist()
    try:
        if isinstance(given, str | bytes):
            raise TypeError
        numbers = [operator.index(each) for each in ([given] if isinstance(given, int) else given)]
    except TypeError:
        raise TypeError(f"{what}s must be whole numbers, found {str(given)[:60]!r}") from None
    for number in numbers:
        if not 0 <= number < limit:
            raise ValueError(f"{what} {number} is outside 0..{limit - 1} of the vocabulary")
    return numbers


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back, and ids to embedding rows and back.

    `Tokenizer()` is the whole vocabulary: 201,088 rows, row == id. `Tokenizer(kept_ids=ids)` is a
    subset whose row r is the o200k id `ids[r]`; a token it lacks is spelled with the 256 tokens
    that stand for single bytes, so any text can be encoded. Two tokenizers are equal when their
    kept ids are, and they hash, so a tokenizer may be a static argument of jit.

    Raises ValueError for kept ids that repeat, lie outside 0..201087 or lack a byte token.
    """

    kept_ids: tuple[int, ...] | None = None
    # Id -> row. A range says it where each id is its own row.
    _row_of: dict[int, int] | range = dataclasses.field(
        default=range(FULL_VOCAB), init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.kept_ids is not None:
            kept = tuple(_numbers(self.kept_ids, "kept id"))
            row_of = {token: row for row, token in enumerate(kept)}
            if len(row_of) != len(kept):
                twice = next(token for row, token in enumerate(kept) if row_of[token] != row)
                raise ValueError(f"kept id {twice} occurs twice, but each row needs its own id")
            if missing := [token for token in byte_ids() if token not in row_of]:
                raise ValueError(
                    f"kept ids lack {len(missing)} of the 256 single-byte tokens (first: id"
                    f" {missing[0]}), without which not every text can be encoded; add byte_ids()"
                )
            object.__setattr__(self, "kept_ids", kept)
            object.__setattr__(self, "_row_of", row_of)

    def __repr__(self) -> str:
        rows = "whole o200k_harmony" if self.kept_ids is None else "subset of o200k_harmony"
        return f"Tokenizer({rows}, {self.vocab_size:,} rows)"

    @property
    def vocab_size(self) -> int:
        """The number of rows."""
        return len(self._row_of)

    @property
    def stop_rows(self) -> tuple[int, ...]:
        """Rows of the tokens that end a completion: return, call, endoftext (those kept)."""
        return tuple(self._row_of[token] for token in STOP_TOKENS if token in self._row_of)

    def encode(self, text: str) -> list[int]:
        """Text -> o200k ids. A control token written in the text is plain text, never a command.

        Equal to openai-harmony's encoding, except that a stretch of more than MAX_RUN spaces,
        letters or symbols is encoded in parts. `decode(encode(text)) == text` always.
        Raises TypeError for anything but a str, ValueError for a lone surrogate.
        """
        encode = load_encoding().encode
        pieces = [encode(piece, disallowed_special=()) for piece in bounded(check_text(text))]
        return self.fit(itertools.chain.from_iterable(pieces))

    def fit(self, ids: Iterable[int]) -> list[int]:
        """Ids -> ids of this vocabulary: a token it lacks becomes its bytes, one token each.

        Raises ValueError for a control token it lacks: spelled out it would mean something else.
        """
        fitted = []
        for token in _numbers(ids):
            if token in self._row_of:
                fitted.append(token)
            elif token < FIRST_CONTROL:
                fitted += [byte_ids()[byte] for byte in _bytes_of(token)]
            else:
                raise ValueError(
                    f"control token {_bytes_of(token).decode()} (id {token}) is not among the"
                    f" {self.vocab_size:,} kept ids of this model, and bytes cannot replace it"
                )
        return fitted

    def token_bytes(self, token: int) -> bytes:
        """The bytes one id stands for: not always UTF-8, a character may span several tokens."""
        return _bytes_of(*_numbers([token]))

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text. Bytes that are not UTF-8 become U+FFFD; control tokens show by name."""
        return b"".join(map(_bytes_of, _numbers(ids))).decode("utf-8", "replace")

    def to_rows(self, ids: Iterable[int]) -> list[int]:
        """O200k ids -> embedding rows. Raises ValueError for an id without a row."""
        try:
            return [self._row_of[token] for token in _numbers(ids)]
        except KeyError as error:
            token = error.args[0]
            raise ValueError(
                f"id {token} ({_bytes_of(token)!r}) has no row in this vocabulary of"
                f" {self.vocab_size:,} tokens; pass ids through .fit(ids) first"
            ) from None

    def to_ids(self, rows: Iterable[int]) -> list[int]:
        """Embedding rows -> o200k ids. Raises ValueError for a row outside 0..vocab_size-1."""
        rows = _numbers(rows, "row", self.vocab_size)
        return rows if self.kept_ids is None else [self.kept_ids[row] for row in rows]


@dataclasses.dataclass(frozen=True)
class NoText:
    """A model's tokenizer where nothing says what text its rows stand for: all we know is how many.

    `generate_tokens`, `prefill` and `decode_step` need no more. Any use of it is a ValueError.
    """

    vocab_size: int

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):  # asked for by copy, pickle, IPython: they take no for an answer
            raise AttributeError(name)
        raise ValueError(
            f"this checkpoint's {self.vocab_size} vocabulary rows have no text: expected"
            " o200k_harmony's 201088 or an o200k_ids.json beside the weights;"
            " generate_tokens works on rows"
        )
