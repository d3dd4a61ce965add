"""Tools for a conversation: OpenAI's function schemas, checked before they become a prompt.

The model sees a tool as a TypeScript type in the developer message. openai-harmony writes that type
and leaves out in silence what it does not understand, so the schema is looked at here first.

Source: OpenAI's function calling format; openai-harmony 0.0.8 for what becomes of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import openai_harmony as oh

from gptoss_edu.parser import FUNCTION_NAME
from gptoss_edu.tokenizer import check_text


def expected(found: str, wanted: str) -> ValueError:
    """The error of every check of a prompt: what was found, and what was expected."""
    return ValueError(f"{found}, but {wanted} was expected")


def check_kind(value: object, kinds: type | tuple[type, ...], what: str, wanted: str) -> None:
    """Raises ValueError unless `value`, called `what`, is of one of these types."""
    if not isinstance(value, kinds):
        raise expected(f"{what} is a {type(value).__name__}", wanted)


def as_text(value: Any, what: str) -> str:
    """`value`, or ValueError where it is not a str or holds a lone surrogate; `what` names it."""
    try:
        return check_text(value, what)
    except TypeError as error:
        raise ValueError(str(error)) from None


def tool_descriptions(tools: Sequence[Mapping[str, Any]] | None) -> list[Any]:
    """OpenAI function schemas, checked -> openai-harmony's tool descriptions."""
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
    if tool.get("type", "function") != "function":
        raise ValueError(f"{where} has type {tool['type']!r}, but only 'function' is supported")
    function = tool.get("function", tool)
    check_kind(function, Mapping, f"{where}['function']", "a dict")
    name, parameters = function.get("name"), function.get("parameters")
    if not (isinstance(name, str) and FUNCTION_NAME.fullmatch(name)):
        raise expected(f"{where} has name {name!r}", "one of 1 to 64 letters, digits, '_' or '-'")
    description = as_text(function.get("description") or "", f"description of {where}")
    if parameters in (None, {}):
        return name, description, None
    _check_parameters(parameters, f"parameters of {where} ({name})")
    return name, description, dict(parameters)


def _check_parameters(parameters: Any, where: str) -> None:
    """A JSON schema of an object: what openai-harmony turns into a TypeScript type."""
    if not isinstance(parameters, Mapping) or parameters.get("type") != "object":
        found = parameters.get("type") if isinstance(parameters, Mapping) else parameters
        wanted = 'a schema {"type": "object", "properties": …}'
        raise expected(f"{where}: found {found!r}", wanted)
    properties, required = parameters.get("properties", {}), parameters.get("required", [])
    check_kind(properties, Mapping, f"{where}: properties", "a dict")
    for name, schema in properties.items():
        if not isinstance(name, str) or not isinstance(schema, Mapping):
            raise expected(f"{where}: property {name!r} has schema {schema!r}", "a dict")
    if not isinstance(required, list | tuple):
        raise expected(f"{where}: required is {required!r}", "a list of names")
    if unknown := [name for name in required if name not in [*properties]]:
        raise ValueError(f"{where}: required names {unknown[0]!r}, which is not in properties")
    try:
        json.dumps(parameters, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} cannot be written as JSON: {error}") from None
