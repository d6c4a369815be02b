"""Configurations as documents, and changes of them by dotted names."""

import json
from dataclasses import asdict, dataclass, field
from typing import Literal

import pytest

from shotstream.configs import ConfigError, config_from_document


@dataclass(frozen=True, kw_only=True, slots=True)
class _Inner:
    gain: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Words:
    form: Literal["a", "b"] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sizes:
    widths: tuple[int, ...]
    depth: int = 2
    inner: _Inner = field(default_factory=lambda: _Inner(gain=1.0))


def test_a_config_survives_json_and_is_strict() -> None:
    sizes = _Sizes(widths=(1, 2), depth=3, inner=_Inner(gain=0.5))
    assert config_from_document(_Sizes, json.loads(json.dumps(asdict(sizes))), "here") == sizes
    with pytest.raises(
        ConfigError, match="here: 'dept' is unknown, 'widths' is missing; the keys are depth, inner, widths"
    ):
        config_from_document(_Sizes, {"dept": 1}, "here")
    with pytest.raises(ConfigError, match=r"here\.inner: 'gian' is unknown"):
        config_from_document(_Sizes, {"widths": [1], "inner": {"gian": 1}}, "here")
    with pytest.raises(ConfigError, match="holds a list"):
        config_from_document(_Sizes, [], "here")


def test_a_document_holds_one_of_the_words_of_a_field_or_null_where_there_may_be_none() -> None:
    for word in ("a", "b", None):
        assert config_from_document(_Words, {"form": word}, "here").form == word
    for other in ("c", 1, [], {}):
        with pytest.raises(ConfigError, match=r"^here\.form is .*; a or b belongs there$"):
            config_from_document(_Words, {"form": other}, "here")
