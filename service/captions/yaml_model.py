"""A YAML file read into a pydantic model, with errors that name file, line and field."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from service.errors import SettingsError

T = TypeVar("T", bound=BaseModel)
_MOST_BYTES = 1_000_000


def read_yaml(path: Path, model: type[T]) -> T:
    """The file as `model`. Raises SettingsError for a file that cannot be read, is not YAML, holds a key twice, or does not fit."""
    root = _compose(path)
    if not isinstance(root, yaml.MappingNode):
        raise SettingsError(f"{path}: expected `field: value` lines")
    _refuse_twins(path, root)
    try:
        content = yaml.SafeLoader("").construct_document(root)
        return model.model_validate(content)
    except yaml.YAMLError as error:
        raise SettingsError(_of_yaml(path, error)) from error
    except ValidationError as error:  # is a ValueError
        raise SettingsError(
            "; ".join(_told(path, root, item["loc"], item["msg"]) for item in error.errors())
        ) from error
    except ValueError as error:  # what YAML takes for a date, and is none
        raise SettingsError(f"{path}: {error}") from error


def _compose(path: Path) -> yaml.Node | None:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise SettingsError(f"{path}: larger than {_MOST_BYTES} bytes")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise SettingsError(_of_yaml(path, error)) from error


def _of_yaml(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"{path}:{mark.line + 1}" if mark else str(path)
    return f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}"


def _refuse_twins(path: Path, node: yaml.Node) -> None:
    """A key given twice would silently lose its first value; an alias can make a small file huge."""
    waiting, seen = [node], set()
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            raise SettingsError(f"{path}:{current.start_mark.line + 1}: anchors and aliases are not used in cards")
        seen.add(id(current))
        if isinstance(current, yaml.SequenceNode):
            waiting += current.value
        elif isinstance(current, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in current.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise SettingsError(f"{path}:{key.start_mark.line + 1}: a field's name must be a word")
                if key.value in keys:
                    raise SettingsError(f"{path}:{key.start_mark.line + 1}: {key.value} is given twice")
                keys.add(key.value)
                waiting.append(value)


def _told(path: Path, root: yaml.Node, loc: Sequence[int | str], message: str) -> str:
    field = ".".join(str(part) for part in loc)
    line = _line(root, loc)
    return f"{path}:{line}: {field}: {message}" if field else f"{path}: {message}"


def _line(node: yaml.Node, loc: Sequence[int | str]) -> int:
    """Line of the innermost part of `loc` that the file has."""
    line = node.start_mark.line + 1
    for part in loc:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        elif isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        else:
            break
    return line
