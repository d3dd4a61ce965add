"""Good files made bad: edits of JSON documents and of bytes, as strategies whose examples are code.

An `Edit` finds its place by a number that is taken modulo the number of places there are, so that
every edit fits every document, and an example remains one when the document changes.
"""

from __future__ import annotations

import copy
import json
from typing import Any, NamedTuple

from hypothesis import strategies as st

HOSTILE = ["../x", "/etc/hostname", "a\x00b", "\x1b[2J\x1b]0;x\x07", "\ud800", "é", "x" * 5_000]
SCALARS: list[Any] = [None, True, False, 0, 1, -1, 2, 4, 7, 64, 128, 10**6, 2**31, 2**63, 2**64]
SCALARS += [10**30, 0.0, -0.0, 0.5, 1.0, 1e-30, 1e308, float("inf"), float("-inf"), float("nan")]
SCALARS += ["", "0", "1", "x", "F32", "BF16", "U8", "yarn", *HOSTILE]
TREES: list[Any] = [[], {}, [0], [1, 2], ["x"], [None], [[[]]], {"x": 1}, {"": {"": []}}]

values = st.one_of(
    st.sampled_from(SCALARS),
    st.sampled_from(TREES),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.recursive(
        st.sampled_from(SCALARS),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
        max_leaves=5,
    ),
)


class Edit(NamedTuple):
    """One change of a document: replace, remove, add, rename or swap the value at a place."""

    kind: str
    place: int
    value: Any = None

    def apply(self, document: Any) -> Any:
        """The changed document."""
        places = [*walk(document)]
        if not places or self.kind == "all":
            return copy.deepcopy(self.value)
        parent, key = places[self.place % len(places)]
        if self.kind == "replace":
            parent[key] = copy.deepcopy(self.value)
        elif self.kind == "remove":
            del parent[key]
        elif self.kind == "swap":
            other, also = places[len(repr(self.value)) * 7 % len(places)]
            if not inside(parent[key], other) and not inside(other[also], parent):
                parent[key], other[also] = other[also], parent[key]
        elif isinstance(parent, list):
            parent.insert(key, copy.deepcopy(self.value))
        elif self.kind == "rename":
            parent[str(self.value)] = parent.pop(key)
        else:
            parent[str(self.value)] = copy.deepcopy(parent[key])
        return document


def walk(node: Any) -> Any:
    """(container, key) of every value in a document."""
    keys = range(len(node)) if isinstance(node, list) else [*node] if isinstance(node, dict) else ()
    for key in keys:
        yield node, key
        yield from walk(node[key])


def inside(tree: Any, node: Any) -> bool:
    """Is this very container in that tree?"""
    return tree is node or any(parent[key] is node for parent, key in walk(tree))


KINDS = ("replace", "replace", "replace", "remove", "swap", "rename", "copy", "all")
edits = st.builds(Edit, st.sampled_from(KINDS), st.integers(0, 10_000), values)


class Cut(NamedTuple):
    """One change of bytes: from a place on, so many are replaced by these."""

    place: int
    length: int
    data: bytes

    def apply(self, text: bytes) -> bytes:
        """The changed bytes."""
        begin = self.place % (len(text) + 1)
        return text[:begin] + self.data + text[begin + self.length :]


SPLINTERS = [b"", b" ", b"0", b"-", b"e", b",", b"]", b"}", b'"', b"\x00", b"\xff", b"\xef\xbb\xbf"]
SPLINTERS += [b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5_000, b"1e999", b"NaN", b"\\ud800", b"//"]
cuts = st.builds(
    Cut,
    st.integers(0, 10**7),
    st.sampled_from([0, 0, 1, 1, 2, 10, 10**9]),
    st.sampled_from(SPLINTERS) | st.binary(max_size=4),
)


class Change(NamedTuple):
    """Edits of a document, and cuts of the text that it becomes."""

    edits: tuple[Edit, ...] = ()
    cuts: tuple[Cut, ...] = ()

    def of(self, document: Any) -> bytes:
        """The changed document as the bytes of a file."""
        document = copy.deepcopy(document)
        for edit in self.edits:
            document = edit.apply(document)
        text = json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")
        for cut in self.cuts:
            text = cut.apply(text)
        return text


changes = st.one_of(
    st.builds(Change, st.tuples(edits)),
    st.builds(Change, st.tuples(edits, edits)),
    st.builds(Change, st.just(()), st.tuples(cuts)),
    st.builds(Change, st.tuples(edits), st.tuples(cuts)),
)
