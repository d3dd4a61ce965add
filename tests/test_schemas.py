"""Function schemas: what is taken, and that a wrong one is refused in words.

What becomes of them in a prompt is tested in test_harmony.py.
"""

import pytest

from gptoss_edu.schemas import as_text, tool_descriptions

NOW = {"name": "now", "description": "the time", "parameters": {"type": "object"}}


def test_nested_and_flat_schemas_are_the_same():
    (flat,), (nested,) = (tool_descriptions([each]) for each in (NOW, {"function": NOW}))
    assert flat == nested
    assert (flat.name, flat.description, flat.parameters) == ("now", "the time", {"type": "object"})
    assert tool_descriptions(None) == []


@pytest.mark.parametrize(
    "tools, message",
    [
        (NOW, "tools is a dict, but a list of schemas"),
        ([NOW, NOW], r"tools\[1\] repeats the name 'now'"),
        (["now"], r"tools\[0\] is a str"),
        ([{"type": "web"}], r"tools\[0\] has type 'web', but only 'function'"),
        ([{"name": "a b"}], r"has name 'a b', but one of 1 to 64 letters"),
        ([NOW | {"parameters": {"type": "string"}}], "found 'string', but a schema"),
        ([NOW | {"parameters": [1]}], r"found \[1\], but a schema"),
        ([NOW | {"parameters": {"type": "object", "required": ["x"]}}], "required names 'x'"),
        ([NOW | {"parameters": {"type": "object", "x": {1}}}], "cannot be written as JSON"),
    ],
)
def test_a_schema_that_would_be_dropped_is_refused(tools, message):
    with pytest.raises(ValueError, match=message):
        tool_descriptions(tools)


def test_texts_are_text():
    assert as_text("a", "it") == "a"
    with pytest.raises(ValueError, match="it is a bytes, but a str"):
        as_text(b"a", "it")
