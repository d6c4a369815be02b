"""Frozen dataclasses as plain JSON, and changes of their settings by dotted names.

The one reader of configurations: of bundles, shards, published models and training runs. Types come from the
annotations of the fields. Where a field may hold one of several dataclasses, the document says which under
the key "kind".
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from shotstream.documents import json_kind, shorten

ConfigT = TypeVar("ConfigT")

_KIND: Final = "kind"
_TYPES: Final[dict[Any, str]] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
}
_WANTED: Final[dict[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a word",
    tuple: "a list",
    NoneType: "null",
}
_LONGEST_SHOWN: Final = 80
_GIVEN_UP: Final[Mapping[str, Mapping[str, Any]]] = {"DiTConfig": {"num_shot_embeddings": 0}}
"""Removed settings that documents still hold, by class, each with the only value that is accepted."""


class ConfigError(ValueError):
    """A document that is not a valid configuration; the message is one line."""


def config_to_document(config: Any) -> Any:
    """Returns a configuration as plain dicts, lists and scalars; each dict names its class as "kind"."""
    if dataclasses.is_dataclass(config):
        fields = {
            field.name: config_to_document(getattr(config, field.name))
            for field in dataclasses.fields(config)
        }
        return {_KIND: type(config).__name__, **fields}
    if isinstance(config, tuple):
        return [config_to_document(item) for item in config]
    return config


def config_from_document(
    cls: type[ConfigT], document: object, where: str, kinds: Iterable[type] = ()
) -> ConfigT:
    """Returns an instance of the dataclass `cls` from plain JSON; lists become tuples, objects dataclasses.

    Args:
        cls: The dataclass.
        document: Result of `config_to_document`, with or without the names of the classes.
        where: Name of the document, for messages.
        kinds: The dataclasses that a field without a specific class may hold.

    Raises:
        ConfigError: `document` is not an object, has an unknown key, lacks a field without a default, or
            holds a value of another type.
        ValueError: The class refuses a value.
    """
    if not isinstance(document, Mapping):
        raise ConfigError(f"{where}: holds {json_kind(document)}, not an object")
    given = {name: value for name, value in document.items() if name != _KIND}
    for name, value in _GIVEN_UP.get(cls.__name__, {}).items():
        if given.pop(name, value) != value:
            raise ConfigError(
                f"{where}.{name} is {_written(document[name])}, a setting that was given up: only {value} "
                "can be read; use the version that wrote it"
            )
    known = {field.name: field for field in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
    unknown = sorted(given.keys() - known.keys())
    required = {
        name
        for name, field in known.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    missing = sorted(required - given.keys())
    if unknown or missing:
        found = [f"{key!r} is unknown" for key in unknown] + [f"{key!r} is missing" for key in missing]
        raise ConfigError(f"{where}: {', '.join(found)}; the keys are {', '.join(sorted(known))}")
    hints, by_name = get_type_hints(cls), {kind.__name__: kind for kind in kinds}
    return cls(
        **{name: _value(hints[name], value, f"{where}.{name}", by_name) for name, value in given.items()}
    )


def _value(hint: Any, value: Any, where: str, kinds: Mapping[str, type]) -> Any:
    """Returns a JSON value as a field of this type takes it; raises ConfigError for another type."""
    if dataclasses.is_dataclass(hint):
        return config_from_document(hint, value, where, kinds.values())  # pyright: ignore[reportArgumentType]
    if isinstance(value, Mapping) and value.get(_KIND) in kinds:
        return config_from_document(kinds[value[_KIND]], value, where, kinds.values())
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        entries = get_args(hint)
        repeats = len(entries) == 2 and entries[1] is Ellipsis
        if repeats or len(entries) == len(value):
            return tuple(
                _value(entries[0] if repeats else entries[at], item, where, kinds)
                for at, item in enumerate(value)
            )
    elif not isinstance(value, Mapping) and _is_of(hint, value):
        return value
    if isinstance(value, Mapping) and _KIND in value:
        raise ConfigError(
            f"{where} is of the kind {_written(value[_KIND])}, which is unknown here; read it with "
            "the program that wrote it"
        )
    written = json.dumps(value, ensure_ascii=False)
    shown = written if len(written) < _LONGEST_SHOWN else json_kind(value)
    words = _words(hint)
    wanted = _listed(words) if words else _TYPES.get(hint, "another value")
    raise ConfigError(f"{where} is {shown}; {wanted} belongs there")


def _is_of(hint: Any, value: Any) -> bool:
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, int | float) and math.isfinite(value)
    if words := _words(hint):
        return value in words
    return isinstance(value, hint) if hint in _TYPES else get_origin(hint) is not tuple


def refuse_unknown_words(config: Any) -> None:
    """Raises ValueError unless every Literal field of a dataclass holds one of its values.

    For the `__post_init__` of every configuration that has such a field.

    Raises:
        ValueError: Names the field, its value and the words.
    """
    cls = type(config)
    require_words(cls, {name: getattr(config, name) for name in _words_of_fields(cls)})


def require_words(cls: type, values: Mapping[str, Any], prefix: str = "") -> None:
    """Raises ValueError unless values for Literal fields of a dataclass, by field name, are allowed."""
    for name, words in _words_of_fields(cls).items():
        if name in values and values[name] not in words:
            raise ValueError(f"{prefix}{name} is {values[name]!r}; give {_listed(words)}")


@lru_cache
def _words_of_fields(cls: type) -> dict[str, tuple[Any, ...]]:
    hints = get_type_hints(cls)
    found = {field.name: _words(hints[field.name]) for field in dataclasses.fields(cls)}
    return {name: words for name, words in found.items() if words}


def _words(hint: Any) -> tuple[Any, ...]:
    """Returns the values of a Literal, with None if that is allowed; empty if the hint is not a Literal."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        parts = [(None,) if part is NoneType else _words(part) for part in get_args(hint)]
        return sum(parts, ()) if all(parts) else ()
    return ()


def _listed(words: tuple[Any, ...]) -> str:
    """Returns the values for a message: "a, b or c"; without None, which means a missing value."""
    *others, last = (str(word) for word in words if word is not None)
    return f"{', '.join(others)} or {last}" if others else last


def with_settings(config: ConfigT, changes: Mapping[str, Any], prefix: str = "") -> ConfigT:
    """Returns a configuration with settings changed by dotted names; all are applied together.

    Raises:
        ValueError: There is no such setting, the value has another type, or the class refuses it.
    """
    names = [field.name for field in dataclasses.fields(config)]  # pyright: ignore[reportArgumentType]
    parts: dict[str, dict[str, Any]] = {}
    new: dict[str, Any] = {}
    for path, value in changes.items():
        name, _, rest = path.partition(".")
        whole, old = prefix + path, getattr(config, name, None)
        if name not in names:
            raise ValueError(f"there is no setting {whole!r}: {type(config).__name__} has {', '.join(names)}")
        if rest and not dataclasses.is_dataclass(old):
            raise ValueError(f"there is no setting {whole!r}: {name} has no parts")
        if rest:
            parts.setdefault(name, {})[rest] = value
        elif dataclasses.is_dataclass(old):
            raise ValueError(f"{whole!r} has parts; set one of them")
        else:
            new[name] = _alike(old, value, whole)
    require_words(type(config), new, prefix)
    for name, own in parts.items():
        new[name] = with_settings(getattr(config, name), own, f"{prefix}{name}.")
    return dataclasses.replace(config, **new)  # pyright: ignore[reportArgumentType]


def _alike(old: Any, value: Any, whole: str) -> Any:
    """Returns a value for a setting; raises ValueError if its type differs from that of the old value."""
    if isinstance(old, float) and isinstance(value, int | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):  # reported below, with the name of the setting
            value = float(value)  # YAML reads 1e-3, which has no decimal point, as text
    if isinstance(old, str) and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)  # a count or a share, such as max_bad=3
    if isinstance(old, tuple) and isinstance(value, list):
        value = _entries_alike(old, value, whole)
    if type(value) is not type(old):
        raise ValueError(f"{whole} is {_written(value)}; write {_WANTED[type(old)]}, as {_written(old)}")
    return value


def _entries_alike(old: tuple[Any, ...], given: list[Any], whole: str) -> tuple[Any, ...]:
    if len({type(entry) for entry in old}) == 1:
        old = old[:1] * len(given)
    if len(old) != len(given):  # the type of the entries is not known
        return tuple(given)
    return tuple(
        _alike(one, entry, f"entry {number} of {whole}")
        for number, (one, entry) in enumerate(zip(old, given, strict=True), start=1)
    )


def _written(value: Any) -> str:
    """Returns a value as it is written after --set."""
    return shorten(json.dumps(value, ensure_ascii=False, default=str))


def differing_settings(one: Any, other: Any, prefix: str = "") -> list[str]:
    """Returns the dotted names of the settings that differ between two configurations of a class."""
    found: list[str] = []
    for field in dataclasses.fields(one):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if dataclasses.is_dataclass(left) and type(left) is type(right):
            found += differing_settings(left, right, f"{prefix}{field.name}.")
        elif field.compare and left != right:
            found.append(prefix + field.name)
    return found


def written_settings(config: Any, names: Iterable[str], prefix: str = "") -> str:
    """Returns settings by their dotted names, as written after --set: "data.batch_size=8, ..."."""

    def value_of(name: str) -> Any:
        value = config
        for part in name.split("."):
            value = getattr(value, part)
        return value

    return ", ".join(f"{prefix}{name}={_written(value_of(name))}" for name in names)
