"""Tools for a conversation: function schemas, checked before they become a prompt.

The model sees a tool as a TypeScript type in the developer message. openai-harmony writes that type
and leaves out in silence what it does not understand; so that is written here, in TypeScript, and
what no type can say in a comment.

Source: OpenAI's function calling format; openai-harmony 0.0.8 for what becomes of it; JSON Schema.
"""

from __future__ import annotations

import difflib
import json
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import openai_harmony as oh

from gptoss_edu.parser import FUNCTION_NAME
from gptoss_edu.tokenizer import check_text

# What a function's schema is called: by OpenAI, by the Model Context Protocol, by Anthropic.
SCHEMA_KEYS = ("parameters", "inputSchema", "input_schema")
FUNCTION_KEYS = ("name", "description", *SCHEMA_KEYS)
# No loss to the model: how the caller checks, shows and stores a tool, and what it gives back.
IGNORED_KEYS = ("type", "strict", "title", "annotations", "outputSchema", "_meta", "cache_control")
# What openai-harmony writes beside a type; what it understands; what says nothing about a value.
BESIDE = ("title", "description", "default", "examples")
PLAIN = (*BESIDE, "type", "properties", "required", "items", "enum", "oneOf", "nullable")
KINDS = ("string", "number", "integer", "boolean", "object", "array")
SILENT = ("$schema", "$id", "$comment", "$defs", "definitions", "title")
MAX_TYPE = 200_000  # characters; definitions that name each other twice grow without end


def expected(found: str, wanted: str) -> ValueError:
    """The error of every check of a prompt: what was found, and what was expected."""
    return ValueError(f"{found}, but {wanted} was expected")


def check_kind(value: object, kinds: type | tuple[type, ...], what: str, wanted: str) -> None:
    """Raises ValueError unless `value`, called `what`, is of one of these types."""
    if not isinstance(value, kinds):
        raise expected(f"{what} is a {type(value).__name__}", wanted)


def is_empty(value: object) -> bool:
    """None, or a text, list or dict without entries. An array has no truth, and is not asked."""
    return value is None or (isinstance(value, (str, list, tuple, Mapping)) and not value)


def as_text(value: Any, what: str) -> str:
    """`value`, or ValueError where it is not a str or holds a lone surrogate; `what` names it."""
    try:
        return check_text(value, what)
    except TypeError as error:
        raise ValueError(str(error)) from None


def as_json(value: Any, what: str) -> str:
    """`value` as JSON text, or ValueError where JSON has no words for it: NaN, a set, a circle."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{what} cannot be written as JSON: {error}") from None


def tool_names(tools: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """The names of the functions. Raises as `tool_descriptions` does."""
    return [tool.name for tool in tool_descriptions(tools)]


def tool_descriptions(tools: Sequence[Mapping[str, Any]] | None) -> list[Any]:
    """Function schemas, checked -> openai-harmony's tool descriptions.

    OpenAI's, nested in "function" or flat, and those of MCP and Anthropic, with "inputSchema" and
    "input_schema". Any other entry is refused, since it would not reach the model. Raises
    ValueError.
    """
    if tools is None:
        return []
    if isinstance(tools, str) or not isinstance(tools, Sequence):
        raise expected(f"tools is a {type(tools).__name__}", "a list of schemas")
    functions: dict[str, oh.ToolDescription] = {}
    for index, tool in enumerate(tools):
        name, description, parameters = _checked_schema(tool, f"tools[{index}]")
        if name in functions:
            raise ValueError(f"tools[{index}] repeats the name {name!r}; names must differ")
        functions[name] = oh.ToolDescription.new(name, description, parameters=parameters)
    return list(functions.values())


def _checked_schema(tool: Any, where: str) -> tuple[str, str, dict[str, Any] | None]:
    """One schema, nested or flat -> name, description, parameters."""
    schema = '{"type": "function", "function": {"name", "description", "parameters"}}'
    check_kind(tool, Mapping, where, schema)
    kind = reprlib.repr(tool.get("type", "function"))
    if kind not in ("'function'", "None") and "input_schema" not in tool:
        raise ValueError(f"{where} has type {kind}, but only 'function' is supported")
    function = tool.get("function", tool)
    check_kind(function, Mapping, f"{where}['function']", "a dict")
    _check_keys(tool, FUNCTION_KEYS if function is tool else ("function",), where)
    _check_keys(function, FUNCTION_KEYS, where)
    name = function.get("name")
    if not (isinstance(name, str) and FUNCTION_NAME.fullmatch(name)):
        wanted = "one of 1 to 64 letters, digits, '_' or '-'"
        raise expected(f"{where} has name {reprlib.repr(name)}", wanted)
    description = function.get("description")
    description = "" if description is None else as_text(description, f"description of {where}")
    given = [key for key in SCHEMA_KEYS if function.get(key) is not None]
    if len(given) > 1:
        raise ValueError(f"{where} ({name}) has {' and '.join(given)}; keep one of them")
    parameters = function[given[0]] if given else {}
    if isinstance(parameters, Mapping) and not parameters:
        return name, description, None
    where = f"{given[0]} of {where} ({name})"
    try:
        return name, description, _parameters(parameters, where)
    except RecursionError:
        raise ValueError(f"{where} cannot be written as a type: it is nested too deeply") from None


def _check_keys(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key, value in given.items():
        if value is not None and key not in (*known, *IGNORED_KEYS):
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            found = f"{where} has an unknown entry {reprlib.repr(key)}"
            raise ValueError(f"{found}, which would not reach the model; {hint}")


def _parameters(given: Any, where: str) -> dict[str, Any]:
    """The JSON schema of an object, checked, so that openai-harmony can write all of it."""
    found = given.get("type") if isinstance(given, Mapping) else given
    named = isinstance(given, Mapping) and {"properties", "$ref", "allOf", "anyOf", "oneOf"} & {
        *given
    }
    if not (isinstance(found, str) and found == "object") and not (found is None and named):
        wanted = 'a schema {"type": "object", "properties": …}'
        raise expected(f"{where}: found {reprlib.repr(found)}", wanted)
    root: dict[str, Any] = json.loads(as_json(dict(given), where))
    properties, required = root.get("properties") or {}, root.get("required") or []
    check_kind(properties, dict, f"{where}: properties", "a dict")
    for name, schema in properties.items():
        if not isinstance(schema, dict):
            raise expected(f"{where}: property {name!r} has schema {schema!r}", "a dict")
    if not isinstance(required, list):
        raise expected(f"{where}: required is {required!r}", "a list of names")
    whole = isinstance(named, set) and bool(named - {"properties"})  # said in parts
    if not whole and (unknown := [name for name in required if name not in [*properties]]):
        raise ValueError(f"{where}: required names {unknown[0]!r}, which is not in properties")
    try:
        if whole:
            return {"type": [_typescript(root, root)]}
        said = {name: _said(each, root) for name, each in properties.items()}
    except (ValueError, TypeError, AttributeError) as error:  # a schema may be anything
        raise ValueError(f"{where} cannot be written as a type: {error}") from None
    if told := _told(root, PLAIN):
        root["description"] = "; ".join(filter(None, [root.get("description"), *told]))
    return root | {"type": "object"} | ({"properties": said} if said else {})


def _said(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """A property, as it is or with TypeScript for its type."""
    if _is_plain(schema):
        return schema
    beside = {key: schema[key] for key in BESIDE if key in schema}
    bare = {key: value for key, value in schema.items() if key not in BESIDE}
    return beside | {"type": [_typescript(bare, root)]}


def _is_plain(schema: dict[str, Any]) -> bool:
    """Does openai-harmony say all of this?"""
    kind, enum, variants = schema.get("type"), schema.get("enum"), schema.get("oneOf") or []
    inner = [*(schema.get("properties") or {}).values(), *filter(None, [schema.get("items")])]
    strings = enum is None or (kind == "string" and all(isinstance(each, str) for each in enum))
    one = not variants if kind in KINDS else kind is None and not inner
    return one and strings and not _told(schema, PLAIN) and all(map(_is_plain, inner + variants))


def _told(schema: dict[str, Any], known: Sequence[str]) -> list[str]:
    """What a schema says in other words than these, for a comment."""
    said = {key: value for key, value in schema.items() if key not in (*known, *SILENT)}
    if isinstance(said.get("additionalProperties"), bool):
        del said["additionalProperties"]
    return [f"{key}: {as_json(each, key)}" for key, each in said.items() if each is not None]


def _typescript(schema: Any, root: dict[str, Any], trail: tuple[str, ...] = ()) -> str:
    """A schema as a type; what types cannot say stands in a comment. `trail`: references so far.

    Raises ValueError, and whatever a malformed schema runs into.
    """
    if not isinstance(schema, dict):
        return "any" if schema is True else f"any /* {as_json(schema, 'schema')} */"

    def inner(each: Any, *via: str) -> str:
        return _typescript(each, root, (*trail, *via))

    def one(kind: Any) -> str:
        if kind == "array" and isinstance(parts := schema.get("prefixItems"), list):
            return f"[{', '.join(map(inner, parts))}]"
        if kind == "array":
            return f"Array<{inner(schema.get('items', True))}>"
        if kind == "object" and (fields or record):
            return _joined(" & ", [f"{{ {', '.join(fields)} }}" if fields else "", record])
        return "number" if kind == "integer" else str(kind)

    more = schema.get("additionalProperties")
    record = f"Record<string, {inner(more)}>" if isinstance(more, dict) else ""
    fields = [
        f"{name}{'' if name in (schema.get('required') or ()) else '?'}: {inner(each)}"
        for name, each in (schema.get("properties") or {}).items()
    ]
    ref, kinds = schema.get("$ref") or "", schema.get("type")
    used = "type properties items prefixItems anyOf oneOf allOf const enum nullable".split()
    used += ["required"] * bool(fields) + ["additionalProperties"] * bool(record)
    parts = [inner(each) for each in schema.get("allOf") or ()]
    if ref.startswith("#") and ref not in trail:
        parts.append(inner(_target(ref, root), ref))
        used.append("$ref")
    for key in ("anyOf", "oneOf"):
        parts.append(_joined(" | ", map(inner, schema.get(key) or ())))
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values:
        parts.append(_joined(" | ", (as_json(value, "enum") for value in values)))
    elif kinds or fields or record or {"items", "prefixItems"} & {*schema}:
        kinds = kinds or ("object" if fields or record else "array")
        parts.append(_joined(" | ", map(one, kinds if isinstance(kinds, list) else [kinds])))
    text = _joined(" & ", parts) or "any"
    text += " | null" if schema.get("nullable") and "null" not in text else ""
    if told := _told(schema, used):
        text += f" /* {'; '.join(told)} */"
    if len(text) > MAX_TYPE:
        raise ValueError(f"it grows beyond {MAX_TYPE:,} characters")
    return text


def _joined(sign: str, types: Iterable[str]) -> str:
    """Types with a sign between, each once."""
    each = [*dict.fromkeys(filter(None, types))]
    unions = [f"({one})" if " | " in one and sign == " & " and each[1:] else one for one in each]
    return sign.join(unions)


def _target(ref: str, root: Any) -> Any:
    """What a reference leads to: `#/$defs/City` are two steps from the root."""
    for step in filter(None, ref[1:].split("/")):
        step = step.replace("~1", "/").replace("~0", "~")
        root = root.get(step) if isinstance(root, dict) else None
    if root is None:
        raise ValueError(f"$ref {ref} leads nowhere")
    return root
