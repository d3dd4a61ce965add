"""Tools for a conversation: function schemas, checked before they become a prompt.

The model sees a tool as a TypeScript type in the developer message. openai-harmony writes that type
and leaves out in silence what it does not understand; so that is written here, in TypeScript, and
what no type can say in a comment.

Source: OpenAI's function calling format; openai-harmony 0.0.8 for what becomes of it; JSON Schema.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from reprlib import repr as brief
from typing import Any

import openai_harmony as oh

from gptoss_edu.parser import FUNCTION_NAME
from gptoss_edu.tokenizer import check_text

# What a function's schema is called: by OpenAI, by the Model Context Protocol, by Anthropic.
SCHEMA_KEYS = ("parameters", "inputSchema", "input_schema")
FUNCTION_KEYS = ("name", "description", *SCHEMA_KEYS)
# No loss to the model: how the caller checks, shows and stores a tool, and what it gives back.
IGNORED_KEYS = ("type", "strict", "title", "annotations", "outputSchema", "_meta", "cache_control")
# What openai-harmony writes beside a type, and what says nothing about a value.
BESIDE = ("title", "description", "default", "examples")
SILENT = ("title", "type", "$schema", "$id", "$comment", "$defs", "definitions")
WHOLE, PARTS = ("properties", "required"), {"$ref", "allOf", "anyOf", "oneOf"}
MAX_TYPE = 200_000  # characters; definitions that name each other twice grow without end


def expected(found: str, wanted: str) -> ValueError:
    """The error of every check of a prompt: what was found, and what was expected."""
    return ValueError(f"{found[:500]}, but {wanted} was expected")


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
    kind = brief(tool.get("type", "function"))
    if kind not in ("'function'", "None") and "input_schema" not in tool:
        raise ValueError(f"{where} has type {kind}, but only 'function' is supported")
    function = tool.get("function", tool)
    check_kind(function, Mapping, f"{where}['function']", "a dict")
    _check_keys(tool, FUNCTION_KEYS if function is tool else ("function",), where)
    _check_keys(function, FUNCTION_KEYS, where)
    name = function.get("name")
    if not (isinstance(name, str) and FUNCTION_NAME.fullmatch(name)):
        wanted = "one of 1 to 64 letters, digits, '_' or '-'"
        raise expected(f"{where} has name {brief(name)}", wanted)
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
    except (LookupError, TypeError, AttributeError, RecursionError) as error:  # it may be anything
        why = {KeyError: "a $ref leads nowhere", RecursionError: "it is too deep or too long"}
        reason = why.get(type(error), str(error))
        raise ValueError(f"{where} cannot be written as a type: {reason}") from None


def _check_keys(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key, value in given.items():
        if value is not None and key not in (*known, *IGNORED_KEYS):
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            found = f"{where} has an unknown entry {brief(key)}"
            raise ValueError(f"{found}, which would not reach the model; {hint}")


def _parameters(given: Any, where: str) -> dict[str, Any]:
    """The JSON schema of an object, checked, so that openai-harmony can write all of it."""
    keys = {*given} if isinstance(given, Mapping) else set()
    found = given.get("type") if keys else given
    implied = found is None and keys & {"properties", *PARTS}
    if not implied and not (isinstance(found, str) and found == "object"):
        wanted = 'a schema {"type": "object", "properties": …}'
        raise expected(f"{where}: found {brief(found)}", wanted)
    root: dict[str, Any] = json.loads(as_json(dict(given), where))
    properties, required = root.get("properties") or {}, root.get("required") or []
    check_kind(properties, dict, f"{where}: properties", "a dict")
    for name, schema in properties.items():
        if not isinstance(schema, dict):
            raise expected(f"{where}: property {brief(name)} has schema {brief(schema)}", "a dict")
    if not isinstance(required, list):
        raise expected(f"{where}: required is {brief(required)}", "a list of names")
    if [key for key in root if _says(key, root[key]) and key not in (*BESIDE, *WHOLE)]:
        return {"type": [_typescript(root, root)]}
    if unknown := [name for name in required if name not in [*properties]]:
        raise ValueError(f"{where}: required names {brief(unknown[0])}, which is not in properties")
    for name, schema in properties.items():
        beside = {key: schema.pop(key) for key in BESIDE if key in schema}
        # An enum beside it says how a default is quoted.
        enum = {"enum": schema["enum"]} if "enum" in schema else {}
        properties[name] = beside | enum | {"type": [_typescript(schema, root)]}
    return root | {"type": "object"}


def _says(key: str, value: Any) -> bool:
    """Does a keyword say something of a value, beside its type?"""
    flag = key == "additionalProperties" and isinstance(value, bool)
    return key not in SILENT and value is not None and not flag


def _typescript(schema: Any, root: dict[str, Any], trail: tuple[str, ...] = ()) -> str:
    """A schema as a type; what types cannot say stands in a comment. `trail`: references so far."""
    if not isinstance(schema, dict):
        return "any" if schema is True else f"any /* {as_json(schema, 'schema')} */"
    left, parts = dict(schema), []

    def inner(each: Any, *via: str) -> str:
        return _typescript(each, root, (*trail, *via))

    def union(types: Iterable[str]) -> str:
        return " | ".join(dict.fromkeys(types))

    ref = left.get("$ref") or ""
    if ref.startswith("#") and ref not in trail:
        target = functools.reduce(lambda at, step: at[step], left.pop("$ref").split("/")[1:], root)
        parts.append(inner(target, ref))
    parts += map(inner, left.pop("allOf", None) or ())
    parts += [union(map(inner, left.pop(key) or ())) for key in ("anyOf", "oneOf") if key in left]
    fields = (left.pop("properties", None) or {}).items()
    needed = (left.pop("required", None) or ()) if fields else ()
    named = [f"{name}{'' if name in needed else '?'}: {inner(each)}" for name, each in fields]
    objects = [f"{{ {', '.join(named)} }}"] if fields else []
    if isinstance(left.get("additionalProperties"), dict):
        objects.append(f"Record<string, {inner(left.pop('additionalProperties'))}>")
    own = {"integer": "number", "object": " & ".join(objects) or "object"}
    items = inner(left.pop("items", True))
    own["array"] = f"{items}[]" if items.isalpha() and "items" in schema else f"Array<{items}>"
    kinds = left.pop("type", None) or ("object" if objects else ["array"] * ("items" in schema))
    values = [left.pop("const")] if "const" in left else left.pop("enum", None)
    if values is None:
        values = [own.get(kind, kind) for kind in (kinds if isinstance(kinds, list) else [kinds])]
    else:
        values = [as_json(value, "enum") for value in values]
    parts += [union(values)] if values else []
    if parts[1:]:
        parts = [f"({part})" if " | " in part else part for part in dict.fromkeys(parts)]
    text = " & ".join(parts) or "any"
    text += " | null" if left.pop("nullable", False) and "null" not in text else ""
    told = [f"{key}: {as_json(left[key], key)}" for key in left if _says(key, left[key])]
    text += f" /* {'; '.join(told)} */" if told else ""
    if len(text) > MAX_TYPE:
        raise RecursionError
    return text
