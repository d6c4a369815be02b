"""Every training run of the project, as a function that returns its whole configuration.

`shotstream train NAME` runs one. Values can be overridden by dotted names, for example
`--set stage.batch_size=8`; an unknown name or a value of the wrong kind is refused.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from shotstream.codec.patch_codec import PatchCodecConfig
from shotstream.codec.word_encoder import WordEncoderConfig
from shotstream.data.captions import StoredTextConfig
from shotstream.data.latents import PoolConfig
from shotstream.data.source import ShardsConfig
from shotstream.documents import DocumentError, parse_setting, shorten
from shotstream.model.config import DiTConfig
from shotstream.training import theatre, wan
from shotstream.training.loop import LoopConfig
from shotstream.training.names import require_recipe
from shotstream.training.recipe import Recipe, StageConfig, length_of
from shotstream.training.stages.causal_init import CausalInitTraining
from shotstream.training.stages.codec import CodecTraining
from shotstream.training.stages.decoder import DecoderTraining
from shotstream.training.stages.dmd import DmdTraining
from shotstream.training.stages.inter_shot import InterShotTraining
from shotstream.training.stages.intra_shot import IntraShotTraining
from shotstream.training.stages.ode_pairs import OdePairsTraining
from shotstream.training.stages.reader import ReaderTraining
from shotstream.training.stages.teacher import TeacherTraining


def input_of(recipe: Recipe, kind: type[StageConfig]) -> str:
    """The name of the recipe's input whose stage is of a kind."""
    return next(name for name in recipe.inputs if isinstance(RECIPES[name]().stage, kind))


def _wan(name: str, stage: StageConfig, num_steps: int, inputs: tuple[str, ...]) -> Recipe:
    saved = LoopConfig(
        num_steps=num_steps, save_every=100, log_every=10, preview_every=1000, samples_at_once=1
    )
    learns = not isinstance(stage, OdePairsTraining)
    return Recipe(
        name=name,
        stage=stage,
        loop=dataclasses.replace(saved, activation_checkpointing=learns),
        inputs=inputs,
    )


def wan_teacher() -> Recipe:
    """The 1.3B teacher, from the base model."""
    return _wan("wan_teacher", wan.wan_teacher(), wan.TEACHER_STEPS, ())


def wan_ode_pairs() -> Recipe:
    """Trajectories of the 1.3B teacher."""
    return _wan("wan_ode_pairs", wan.wan_ode_pairs(), wan.PAIR_FILES, ("wan_teacher",))


def wan_causal_init() -> Recipe:
    """The 1.3B four-step student."""
    inputs = ("wan_teacher", "wan_ode_pairs")
    return _wan("wan_causal_init", wan.wan_causal_init(), wan.CAUSAL_INIT_STEPS, inputs)


def wan_intra_shot() -> Recipe:
    """The 1.3B student matched to its teacher, given true earlier shots."""
    inputs = ("wan_teacher", "wan_causal_init")
    return _wan("wan_intra_shot", wan.wan_intra_shot(), wan.INTRA_SHOT_STEPS, inputs)


def wan_inter_shot() -> Recipe:
    """The 1.3B student matched to its teacher, given its own earlier shots."""
    inputs = ("wan_teacher", "wan_intra_shot")
    return _wan("wan_inter_shot", wan.wan_inter_shot(), wan.INTER_SHOT_STEPS, inputs)


RECIPES: Final[Mapping[str, Callable[[], Recipe]]] = {
    "theatre_codec": theatre.theatre_codec,
    "theatre_decoder": theatre.theatre_decoder,
    "theatre_text": theatre.theatre_text,
    "theatre_teacher": theatre.theatre_teacher,
    "theatre_ode_pairs": theatre.theatre_ode_pairs,
    "theatre_causal_init": theatre.theatre_causal_init,
    "theatre_intra_shot": theatre.theatre_intra_shot,
    "theatre_inter_shot": theatre.theatre_inter_shot,
    "theatre_published_pairs": theatre.theatre_published_pairs,
    "theatre_published_init": theatre.theatre_published_init,
    "mini_teacher": theatre.mini_teacher,
    "mini_ode_pairs": theatre.mini_ode_pairs,
    "mini_causal_init": theatre.mini_causal_init,
    "mini_intra_shot": theatre.mini_intra_shot,
    "mini_inter_shot": theatre.mini_inter_shot,
    "wan_teacher": wan_teacher,
    "wan_ode_pairs": wan_ode_pairs,
    "wan_causal_init": wan_causal_init,
    "wan_intra_shot": wan_intra_shot,
    "wan_inter_shot": wan_inter_shot,
}
"""By name; in the order of `names.RECIPE_NAMES`."""


_REMOVED: Final = {"OdePairsTraining": ("batch_size",), "WordEncoderConfig": ("bigrams",)}
"""Settings that configurations of earlier runs may name: one never had an effect, one was given up."""

_KINDS: Final = {
    kind.__name__: kind
    for kind in (
        Recipe,
        LoopConfig,
        CodecTraining,
        DecoderTraining,
        ReaderTraining,
        TeacherTraining,
        OdePairsTraining,
        CausalInitTraining,
        DmdTraining,
        IntraShotTraining,
        InterShotTraining,
        PatchCodecConfig,
        WordEncoderConfig,
        DiTConfig,
        PoolConfig,
        ShardsConfig,
        StoredTextConfig,
    )
}


def recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a name, with `key.path=value` overrides.

    Raises:
        ValueError: there is no such recipe or key, or the value is of another kind.
    """
    require_recipe(name)
    result = RECIPES[name]()
    changes: dict[str, Any] = {}
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"{override!r} is not an override; write key.path=value")
        try:
            value = parse_setting(text)
        except DocumentError as error:
            raise ValueError(f"{shorten(override, 80)!r}: {error}") from error
        _require_effect(result.stage, path)
        changes[path] = value
    return _replaced(result, _of_one_length(result, changes))


_LENGTH: Final = "loop.num_steps"
_KINDS_OF_VALUES: Final = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a word",
    tuple: "a list",
}


def _of_one_length(result: Recipe, changes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The changes, where the stage's own name of the run's length stands for the loop's too."""
    own = f"stage.{length_of(result.stage)}"
    if own not in changes:
        return changes
    given = changes.get(_LENGTH, changes[own])
    if given != changes[own]:
        raise ValueError(
            f"{_LENGTH} is {given!r} and {own} {changes[own]!r}, but a run has one length; "
            f"give {_LENGTH} alone"
        )
    return {**changes, _LENGTH: given}


TEACHERS_OWN: Final[tuple[str, ...]] = (
    "num_steps", "decay_steps", "learning_rate", "optimiser", "max_norm", "learns", "warmup_steps", "seed",
    "causal_share", "clean_history", "caption_drop", "figure_share", "max_figure_weight", "ema_decay",
    "matmul_dtype",
)  # fmt: skip
"""Settings of a teacher that nothing reads where its batches are drawn for another stage."""

_STORIES_OWN: Final = ("pair_share", "shot_weights", "figure_share", "max_figure_weight", "text.directory")
"""Settings of a teacher that shards leave no room for: their shots have places, tell of no actors, and bring
their captions with them."""


def idle_settings(stage: StageConfig) -> frozenset[str]:
    """Dotted names of the settings that nothing in a stage reads."""
    places: dict[type, str] = {
        TeacherTraining: "",
        OdePairsTraining: "teacher.",
        CausalInitTraining: "pairs.teacher.",
        IntraShotTraining: "dmd.teacher.",
        InterShotTraining: "dmd.teacher.",
    }
    place = places.get(type(stage))
    if place is None:
        return frozenset()
    idle: set[str] = set() if isinstance(stage, TeacherTraining) else set(TEACHERS_OWN)
    teacher = stage
    for name in place.split(".")[:-1]:
        teacher = getattr(teacher, name)
    assert isinstance(teacher, TeacherTraining)
    if isinstance(teacher.pool, ShardsConfig):
        idle |= set(_STORIES_OWN)
    if isinstance(stage, InterShotTraining):  # films its own history, from the first shot on
        idle = (idle | {"context_drop", "pair_share"}) - {"shot_weights"}
    return frozenset(place + name for name in idle)


def _require_effect(stage: StageConfig, path: str) -> None:
    if path.removeprefix("stage.") in idle_settings(stage) and path.startswith("stage."):
        raise ValueError(f"{path} has no effect in {type(stage).__name__}: nothing there reads it")


def to_document(value: Any) -> Any:
    """A configuration as plain dictionaries, lists and scalars."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: to_document(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, tuple):
        return [to_document(item) for item in value]
    return value


def from_document(value: Any) -> Any:
    """The configuration that `to_document` wrote.

    Raises:
        ValueError: it names a kind or a setting that does not exist.
    """
    if isinstance(value, list):
        return tuple(from_document(item) for item in value)
    if not isinstance(value, dict):
        return value
    kind = value.get("kind")
    if kind not in _KINDS:
        raise ValueError(f"not a configuration of this version: it has no kind {kind!r}")
    known = {field.name: field for field in dataclasses.fields(_KINDS[kind])}
    given = {name: from_document(item) for name, item in value.items() if name != "kind"}
    fields = {name: item for name, item in given.items() if name not in _REMOVED.get(kind, ())}
    required = {name for name, field in known.items() if field.default is dataclasses.MISSING}
    for wrong, said in ((fields.keys() - known, "a setting"), (required - fields.keys(), "no")):
        if wrong:
            raise ValueError(
                f"not a configuration of this version: {kind} has {said} {', '.join(sorted(wrong))}"
            )
    return _KINDS[kind](**fields)


def _replaced(config: Any, changes: Mapping[str, Any], prefix: str = "") -> Any:
    """A configuration with changed settings, by dotted names; it is made once, with all of them."""
    names = [field.name for field in dataclasses.fields(config)]
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
    for name, own in parts.items():
        new[name] = _replaced(getattr(config, name), own, f"{prefix}{name}.")
    return dataclasses.replace(config, **new)


def _alike(old: Any, value: Any, whole: str) -> Any:
    """A value as the setting of a name takes it; ValueError if it is of another kind than the old one."""
    if isinstance(old, float) and isinstance(value, int | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):  # said below, with the name of the setting
            value = float(value)  # YAML takes 1e-3, which has no point, for a word
    if isinstance(old, str) and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)  # a count or a share, such as max_bad=3
    if isinstance(old, tuple) and isinstance(value, list):
        value = _entries_alike(old, value, whole)
    if type(value) is not type(old):
        raise ValueError(
            f"{whole} is {_written(value)}; write {_KINDS_OF_VALUES[type(old)]}, as {_written(old)}"
        )
    return value


def _entries_alike(old: tuple[Any, ...], given: list[Any], whole: str) -> tuple[Any, ...]:
    if len({type(entry) for entry in old}) == 1:
        old = old[:1] * len(given)
    if len(old) != len(given):  # what entries are like is not known
        return tuple(given)
    return tuple(
        _alike(one, entry, f"entry {number} of {whole}")
        for number, (one, entry) in enumerate(zip(old, given, strict=True), start=1)
    )


def _written(value: Any) -> str:
    """A value as it is written behind --set."""
    return shorten(json.dumps(value, ensure_ascii=False, default=str))
