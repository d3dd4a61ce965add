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
    if isinstance(tools, (str, Mapping)) or not isinstance(tools, Sequence):
        raise ValueError(f"tools is a {type(tools).__name__}, but a list of schemas was expected")
    functions, seen = [], set()
    for index, tool in enumerate(tools):
        name, description, parameters = _checked_schema(tool, f"tools[{index}]")
        if name in seen:
            raise ValueError(f"tools[{index}] repeats the name {name!r}; names must differ")
        seen.add(name)
        functions.append(oh.ToolDescription.new(name, description, parameters=parameters))
    return functions


def _checked_schema(tool: Any, where: str) -> tuple[str, str, dict[str, Any] | None]:
    """One schema, nested or flat -> name, description, parameters."""
    expected = '{"type": "function", "function": {"name", "description", "parameters"}}'
    if not isinstance(tool, Mapping):
        raise ValueError(f"{where} is a {type(tool).__name__}, but {expected} was expected")
    if tool.get("type", "function") != "function":
        raise ValueError(f"{where} has type {tool['type']!r}, but only 'function' is supported")
    function = tool.get("function", tool)
    if not isinstance(function, Mapping):
        raise ValueError(f"{where}['function'] is a {type(function).__name__}, not a dict")
    name, parameters = function.get("name"), function.get("parameters")
    if not (isinstance(name, str) and FUNCTION_NAME.fullmatch(name)):
        raise ValueError(
            f"{where} has name {name!r}, but 1 to 64 letters, digits, '_' or '-' were expected"
        )
    description = as_text(function.get("description") or "", f"description of {where}")
    if not parameters:
        if parameters not in (None, {}):
            raise ValueError(f"parameters of {where} are {parameters!r}, but a dict was expected")
        return name, description, None
    _check_parameters(parameters, f"parameters of {where} ({name})")
    return name, description, dict(parameters)


def _check_parameters(parameters: Any, where: str) -> None:
    """A JSON schema of an object: what openai-harmony turns into a TypeScript type."""
    if not isinstance(parameters, Mapping) or parameters.get("type") != "object":
        found = parameters.get("type") if isinstance(parameters, Mapping) else parameters
        raise ValueError(
            f'{where}: found {found!r}, but a schema {{"type": "object", "properties": …}} was '
            f"expected"
        )
    properties = parameters.get("properties", {})
    if not isinstance(properties, Mapping):
        raise ValueError(f"{where}: properties is a {type(properties).__name__}, not a dict")
    for name, schema in properties.items():
        if not isinstance(name, str) or not isinstance(schema, Mapping):
            raise ValueError(f"{where}: property {name!r} has schema {schema!r}, which is no dict")
    required = parameters.get("required", [])
    if not isinstance(required, (list, tuple)):
        raise ValueError(f"{where}: required is {required!r}, but a list of names was expected")
    if unknown := [name for name in required if name not in properties]:
        raise ValueError(f"{where}: required names {unknown[0]!r}, which is not in properties")
    try:
        json.dumps(parameters, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} cannot be written as JSON: {error}") from None
