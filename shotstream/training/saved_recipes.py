"""Saved recipes: reads the configuration of a run, written by this version or an earlier one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from shotstream.configs import ConfigError, config_from_document
from shotstream.data.captions import StoredTextConfig
from shotstream.data.ode_pairs import PairFilesConfig
from shotstream.data.rendered_clips import ActorClipsConfig, ClipsConfig
from shotstream.data.shard_source import ShardsConfig
from shotstream.data.story_captions import ShardCaptionsConfig, StoryCaptionsConfig
from shotstream.data.story_pool import StoryPoolConfig
from shotstream.theatre.caption_encoder import CaptionEncoderConfig
from shotstream.training.nested_recipes import flattened
from shotstream.training.recipe import AnyRecipe, ModelConfig, OptimConfig, Recipe
from shotstream.training.stages.causal_init import CausalInitConfig
from shotstream.training.stages.codec import CodecConfig
from shotstream.training.stages.decoder import DecoderConfig
from shotstream.training.stages.inter_shot import InterShotConfig
from shotstream.training.stages.intra_shot import IntraShotConfig
from shotstream.training.stages.ode_pairs import OdePairsConfig
from shotstream.training.stages.teacher import TeacherConfig
from shotstream.vae.patch_codec import PatchCodecConfig

KINDS: Final[set[type]] = {
    PatchCodecConfig, CaptionEncoderConfig, StoredTextConfig, ModelConfig,
    ClipsConfig, ActorClipsConfig, StoryPoolConfig, ShardsConfig, PairFilesConfig,
    StoryCaptionsConfig, ShardCaptionsConfig, OptimConfig,
    CodecConfig, DecoderConfig, TeacherConfig, OdePairsConfig, CausalInitConfig,
    IntraShotConfig, InterShotConfig,
}  # fmt: skip
"""The classes that a document may name, for parts of a recipe that can have several."""


def recipe_of_run(runs: Path, name: str) -> AnyRecipe:
    """Returns the resolved recipe of a run.

    Raises:
        ValueError: There is no such run, or its configuration cannot be read.
    """
    path = runs / name / "config.json"
    if not path.exists():
        raise ValueError(f"{runs / name} holds no run; run `shotstream train {name}` first")
    try:
        document = json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged: it is no JSON") from error
    try:
        return recipe_from_document(document, str(path))
    except (KeyError, TypeError, AttributeError) as error:  # of an earlier, nested form
        raise ValueError(f"{path} is no configuration of this version or an earlier one") from error


def recipe_from_document(document: object, where: str) -> AnyRecipe:
    """Returns the recipe of a run, from the result of `config_to_document` in this version or an earlier one.

    Raises:
        ValueError: It is not a recipe, or has a setting that does not exist.
    """
    if not isinstance(document, Mapping) or document.get("kind") != "Recipe":
        raise ConfigError(f"{where} holds no recipe")
    return config_from_document(Recipe, flattened(document), where, KINDS)
