"""Every training run of the project, as a function that returns its whole configuration.

`shotstream train NAME` runs one. Settings can be changed by dotted names, for example
`--set data.batch_size=8`; an unknown name or a value of the wrong kind is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from shotstream.configs import ConfigError, config_from_document, with_settings
from shotstream.data.caption_answers import CaptionAnswersConfig
from shotstream.data.captions import StoredTextConfig
from shotstream.data.ode_pairs import PairFilesConfig
from shotstream.data.rendered_clips import ActorClipsConfig, ClipsConfig
from shotstream.data.shard_source import ShardsConfig
from shotstream.data.story_captions import ShardCaptionsConfig, StoryCaptionsConfig
from shotstream.data.story_pool import StoryPoolConfig
from shotstream.documents import DocumentError, parse_setting, shorten
from shotstream.model.config import DiTConfig
from shotstream.text.word_encoder import WordEncoderConfig
from shotstream.training import theatre, wan
from shotstream.training.names import require_recipe
from shotstream.training.nested_recipes import flattened
from shotstream.training.recipe import Inputs, ModelConfig, OptimConfig, Recipe, TrainConfig
from shotstream.training.stages.causal_init import CausalInitConfig
from shotstream.training.stages.codec import CodecConfig
from shotstream.training.stages.decoder import DecoderConfig
from shotstream.training.stages.inter_shot import InterShotConfig
from shotstream.training.stages.intra_shot import IntraShotConfig
from shotstream.training.stages.ode_pairs import OdePairsConfig
from shotstream.training.stages.teacher import TeacherConfig
from shotstream.training.stages.text_encoder import TextEncoderConfig
from shotstream.vae.patch_codec import PatchCodecConfig

AnyRecipe = Recipe[Any, Any, Any]

RECIPES: Final[Mapping[str, Callable[[], AnyRecipe]]] = {
    made.__name__: made
    for made in (
        theatre.theatre_codec,
        theatre.theatre_decoder,
        theatre.theatre_text,
        theatre.theatre_teacher,
        theatre.theatre_ode_pairs,
        theatre.theatre_causal_init,
        theatre.theatre_intra_shot,
        theatre.theatre_inter_shot,
        theatre.theatre_published_pairs,
        theatre.theatre_published_init,
        theatre.mini_teacher,
        theatre.mini_ode_pairs,
        theatre.mini_causal_init,
        theatre.mini_intra_shot,
        theatre.mini_inter_shot,
        wan.wan_teacher,
        wan.wan_ode_pairs,
        wan.wan_causal_init,
        wan.wan_intra_shot,
        wan.wan_inter_shot,
    )
}
"""By name; in the order of `names.RECIPE_NAMES`."""

_KINDS: Final = (
    DiTConfig, PatchCodecConfig, WordEncoderConfig, StoredTextConfig, ModelConfig,
    ClipsConfig, ActorClipsConfig, CaptionAnswersConfig, StoryPoolConfig, ShardsConfig, PairFilesConfig,
    StoryCaptionsConfig, ShardCaptionsConfig, OptimConfig, TrainConfig, Inputs,
    CodecConfig, DecoderConfig, TextEncoderConfig, TeacherConfig, OdePairsConfig, CausalInitConfig,
    IntraShotConfig, InterShotConfig,
)  # fmt: skip


def recipe(name: str, overrides: Sequence[str] = ()) -> AnyRecipe:
    """The recipe of a name, with `key.path=value` overrides.

    Raises:
        ValueError: there is no such recipe or key, or the value is of another kind.
    """
    require_recipe(name)
    changes: dict[str, Any] = {}
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"{override!r} is not an override; write key.path=value")
        try:
            changes[path] = parse_setting(text)
        except DocumentError as error:
            raise ValueError(f"{shorten(override, 80)!r}: {error}") from error
    return with_settings(RECIPES[name](), changes)


def recipe_from_document(document: object, where: str) -> AnyRecipe:
    """The recipe of a run, as `config_to_document` wrote it in this version or an earlier one.

    Raises:
        ValueError: it is none, or has a setting that does not exist.
    """
    if not isinstance(document, Mapping) or document.get("kind") != "Recipe":
        raise ConfigError(f"{where} holds no recipe")
    return config_from_document(Recipe, flattened(document), where, _KINDS)
