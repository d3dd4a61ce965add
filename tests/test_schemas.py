"""Function schemas: what is taken, and that a wrong one is refused in words.

What becomes of them in a prompt is tested in test_harmony.py.
"""

import json
import time

import openai_harmony as oh
import pytest

from gptoss_edu.harmony import render
from gptoss_edu.schemas import as_text, tool_descriptions
from gptoss_edu.tokenizer import load_encoding

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


def typed(parameters, **tool) -> str:
    """What the model sees of a function with these parameters."""
    schema = {"name": "f", "description": "", "parameters": parameters} | tool
    schema = {key: value for key, value in schema.items() if value is not None}
    text = load_encoding().decode(render("x", tools=[schema]))
    return text.split("type f = ")[1].split(" => any;")[0]


CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SAID_CITY = CITY | {"properties": {"city": {"type": ["string"]}}}


@pytest.mark.parametrize("key", ["parameters", "inputSchema", "input_schema"])
def test_a_schema_under_the_key_of_another_program_is_the_same(key):
    """freebuff#450, worldmonitor#3677: MCP and Anthropic; the model saw a function without any."""
    for wrap in (lambda tool: tool, lambda tool: {"type": "function", "function": tool}):
        tool = wrap({"name": "f", "description": "d", key: CITY})
        assert tool_descriptions([tool])[0].parameters == SAID_CITY
    ignored = {"strict": True, "title": "F", "annotations": {"readOnlyHint": True}, "_meta": {}}
    ignored |= {"outputSchema": CITY, "cache_control": {"type": "ephemeral"}}
    assert tool_descriptions([{"name": "f", key: CITY} | ignored])[0].parameters == SAID_CITY
    assert tool_descriptions([{"type": "custom", "name": "f", "input_schema": CITY}])


@pytest.mark.parametrize(
    "key, hint",
    [
        ("parameter", "did you mean parameters"),
        ("params", "did you mean parameters"),
        ("InputSchema", "did you mean inputSchema"),
        ("inputschema", "did you mean input_schema"),
        ("desc", "did you mean description"),
        ("toolSpec", "known are name, description, parameters"),
        ("properties", "did you mean parameters"),
    ],
)
def test_an_unknown_entry_of_a_tool_is_refused_by_name(key, hint):
    for tool in ({"name": "f", key: CITY}, {"function": {"name": "f", key: CITY}}):
        with pytest.raises(ValueError, match=rf"tools\[0\] has an unknown entry '{key}', .*{hint}"):
            tool_descriptions([tool])
    assert tool_descriptions([{"name": "f", key: None}])  # empty: nothing is lost


def test_two_schemas_for_one_function_are_refused():
    with pytest.raises(ValueError, match="has parameters and inputSchema; keep one of them"):
        tool_descriptions([{"name": "f", "parameters": CITY, "inputSchema": CITY}])
    with pytest.raises(ValueError, match="unknown entry 'name'"):
        tool_descriptions([{"name": "f", "function": {"name": "f"}}])


@pytest.mark.parametrize(
    "parameters, expected",
    [
        (None, "()"),
        ({}, "()"),
        ({"type": "object"}, "(_: {\n})"),
        ({"type": "object", "properties": None, "required": None}, "(_: {\n})"),
        ({"properties": {"a": {"type": "string"}}}, "(_: {\na?: string,\n})"),
        ({"type": "object", "properties": {"a": {"default": None}}},
         "(_: {\na?: any, // default: null\n})"),
    ],
)  # fmt: skip
def test_schemas_as_go_servers_and_chat_ui_write_them(parameters, expected):
    """Unity-MCP#440, xiaohongshu-mcp#677, langchainjs#8222, chat-ui#2299."""
    assert typed(parameters) == expected


NODE = {"type": "object", "properties": {"value": {"type": "number"}}}
NODE["properties"]["next"] = {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}
# What a property says -> its type. deepagents#6459, outlines#1908: pydantic writes such schemas.
SAID = {
    "Optional": ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string | null"),
    "Union": ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "number | string"),
    "of lists": (
        {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}]},
        "number[] | null",
    ),
    "list of Optional": (
        {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
        "Array<string | null>",
    ),
    "$ref": ({"$ref": "#/$defs/City"}, "{ name: string, size?: number }"),
    "list of $ref": (
        {"type": "array", "items": {"$ref": "#/$defs/City"}},
        "Array<{ name: string, size?: number }>",
    ),
    "dict": ({"type": "object", "additionalProperties": {"type": "integer"}},
             "Record<string, number>"),
    "dict of $ref": (
        {"type": "object", "additionalProperties": {"$ref": "#/$defs/City"}},
        "Record<string, { name: string, size?: number }>",
    ),
    "recursive": (
        {"$ref": "#/$defs/Node"},
        '{ value?: number, next?: any /* $ref: "#/$defs/Node" */ | null }',
    ),
    "allOf": (
        {"allOf": [{"$ref": "#/$defs/City"}, {"properties": {"x": {"type": "boolean"}}}]},
        "{ name: string, size?: number } & { x?: boolean }",
    ),
    "const": ({"const": "fixed"}, '"fixed"'),
    "const null": ({"const": None}, "null"),
    "enum of numbers": ({"type": "integer", "enum": [1, 2, 3]}, "1 | 2 | 3"),
    "enum without type": ({"enum": ["a", "b"]}, '"a" | "b"'),
    "enum with null": ({"type": ["string", "null"], "enum": ["a", None]}, '"a" | null'),
    "mixed enum": ({"enum": ["a", 1, True]}, '"a" | 1 | true'),
    "tuple": ({"type": "array", "prefixItems": [{"type": "string"}]},
              'Array<any> /* prefixItems: [{"type": "string"}] */'),
    "range": ({"type": "integer", "minimum": 1, "maximum": 7},
              "number /* minimum: 1; maximum: 7 */"),
    "pattern": ({"type": "string", "pattern": "^a"}, 'string /* pattern: "^a" */'),
    "null": ({"type": "null"}, "null"),
    "types with items": ({"type": ["array", "null"], "items": {"type": "string"}},
                         "string[] | null"),
    "oneOf and type": (
        {"type": "string", "oneOf": [{"format": "date"}, {"format": "time"}]},
        '(any /* format: "date" */ | any /* format: "time" */) & string',
    ),
    "required alone": (
        {"type": "object", "properties": {"a": {"type": "string"}}, "anyOf": [{"required": ["a"]}]},
        'any /* required: ["a"] */ & { a?: string }',
    ),
    "described inside": (
        {"anyOf": [{"type": "string", "description": "a name"}, {"const": 0}]},
        'string /* description: "a name" */ | 0',
    ),
    "remote": ({"$ref": "https://example.org/a.json"},
               'any /* $ref: "https://example.org/a.json" */'),
    "nullable": ({"type": "string", "nullable": True, "minLength": 1},
                 "string | null /* minLength: 1 */"),
    "unknown type": ({"type": "date"}, "date"),
    "true": ({"type": "array", "items": True}, "any[]"),
    "nonsense": ({"type": "array", "items": "string"}, 'Array<any /* "string" */>'),
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_what_the_type_cannot_say_is_expanded_or_told(name):
    schema, expected = SAID[name]
    city = {"name": {"type": "string"}, "size": {"type": "integer"}}
    definitions = {"City": {"type": "object", "properties": city, "required": ["name"]}}
    definitions["Node"] = NODE
    properties = {"p": {"description": "it", **schema}, "q": {"type": "boolean"}}
    parameters = {"$defs": definitions, "type": "object", "properties": properties}
    before = json.dumps(parameters)
    assert typed(parameters) == f"(_: {{\n// it\np?: {expected},\nq?: boolean,\n}})"
    assert json.dumps(parameters) == before


def test_a_whole_schema_in_parts():
    a, b = ({"type": "object", "properties": {name: {"type": "string"}}} for name in "ab")
    assert typed({"anyOf": [a, b]}) == "(_: { a?: string } | { b?: string })"
    assert typed({"allOf": [a, b], "required": ["a"]}).startswith("(_: { a?: string } & { b?: stri")
    assert typed({"$ref": "#/$defs/A", "$defs": {"A": a}}) == "(_: { a?: string })"
    assert typed(a | {"minProperties": 1}) == "(_: { a?: string } /* minProperties: 1 */)"


PLAIN = {
    "type": "object",
    "description": "all of it",
    "properties": {
        "s": {"type": "string", "description": "d", "default": "x", "title": "S"},
        "e": {"type": "string", "enum": ["a", "b"], "default": "a"},
        "t": {"type": ["string", "null"]},
        "i": {"type": ["integer", "null"], "description": "n"},
        "n": {"type": "number", "nullable": True, "examples": ["1"]},
        "l": {"type": "array", "items": {"type": "boolean"}},
        "f": {"type": "string", "enum": ["c"], "default": "c", "nullable": True},
        "a": {"description": "anything"},
        "b": {"type": "array"},
    },
    "required": ["s"],
    "additionalProperties": False,
}


def test_what_is_flat_is_written_as_openai_harmony_writes_it():
    """A property within a property stands in one line, as the model's own chat template has it."""
    tool = oh.ToolDescription.new("f", "d", parameters=PLAIN)
    content = oh.DeveloperContent().with_function_tools([tool])
    author = oh.Author(role=oh.Role.DEVELOPER)
    message = oh.Message.from_author_and_content(author, content)
    theirs = load_encoding().decode(load_encoding().render(message))
    ours = render("x", tools=[{"name": "f", "description": "d", "parameters": PLAIN}])
    assert theirs in load_encoding().decode(ours)


@pytest.mark.parametrize(
    "schema, message",
    [
        ({"$ref": "#/$defs/Nobody"}, "cannot be written as a type: .* leads nowhere"),
        ({"$ref": "#/properties/p/type/x"}, "leads nowhere"),
        ({"$ref": 7}, "cannot be written as a type"),
        ({"anyOf": 7}, "cannot be written as a type"),
        ({"properties": 7, "const": 1}, "cannot be written as a type"),
    ],
)
def test_a_schema_without_sense_is_refused_in_words(schema, message):
    with pytest.raises(ValueError, match=message):
        typed({"type": "object", "properties": {"p": schema}})


def test_definitions_that_multiply_are_refused_soon():
    """Forty of them, each twice in the one before: 2 ** 40 types."""
    defs = {
        f"D{i}": {"properties": {key: {"$ref": f"#/$defs/D{i + 1}"} for key in "xy"}}
        for i in range(40)
    }
    defs["D40"] = {"type": "string"}
    begin = time.perf_counter()
    with pytest.raises(ValueError, match=r"of tools\[0\] \(f\) cannot .* too deep or too long"):
        typed({"$defs": defs, "type": "object", "properties": {"a": {"$ref": "#/$defs/D0"}}})
    assert time.perf_counter() - begin < 60
