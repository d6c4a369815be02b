"""The recipes of the theatre's model."""

from dataclasses import replace

from shotstream.data.ode_pairs import PairFilesConfig
from shotstream.data.rendered_clips import ActorClipsConfig, ClipsConfig
from shotstream.data.story_captions import StoryCaptionsConfig
from shotstream.data.story_pool import StoryPoolConfig
from shotstream.model.config import DiTConfig
from shotstream.theatre.caption_encoder import CaptionEncoderConfig
from shotstream.theatre.palette import NAMES
from shotstream.theatre.questions import QUESTIONS
from shotstream.training.recipe import WHOLE_RUN, Inputs, ModelConfig, OptimConfig, Recipe, TrainConfig
from shotstream.training.stages.causal_init import CausalInitConfig, CausalInitRecipe
from shotstream.training.stages.codec import CodecConfig, CodecRecipe
from shotstream.training.stages.decoder import DecoderConfig, DecoderRecipe
from shotstream.training.stages.inter_shot import InterShotConfig, InterShotRecipe
from shotstream.training.stages.intra_shot import IntraShotConfig, IntraShotRecipe
from shotstream.training.stages.ode_pairs import OdePairsConfig, OdePairsRecipe
from shotstream.training.stages.teacher import TeacherConfig, TeacherRecipe
from shotstream.vae.patch_codec import PatchCodecConfig

_DIM = 192


def model() -> ModelConfig:
    """Returns the configuration of the theatre's model."""
    return ModelConfig(
        dit=DiTConfig(
            latent_channels=16,
            dim=_DIM,
            ffn_dim=4 * _DIM,
            num_heads=3,
            num_layers=6,
            text_dim=128,
            text_length=len(QUESTIONS),
            freq_dim=128,
        ),
        text=CaptionEncoderConfig(),
    )


def stories() -> StoryPoolConfig:
    """Returns the configuration of the stories that the theatre's teacher is trained on."""
    return StoryPoolConfig(
        batch_size=24,
        num_blocks=10,
        steps_per_block=80,
        num_latent_frames=(3, 6, 9, 15),
        # Shots that have something to remember, more often than stories have them.
        shot_weights=(0.15, 0.3, 0.25, 0.1, 0.15, 0.0, 0.05),
        caption_drop=0.1,
        turn_share=0.6,
        reference_share=0.3,
    )


def theatre_codec() -> CodecRecipe:
    """Returns the recipe of the theatre's codec: about a quarter of an hour on two CPU cores."""
    return Recipe(
        name="theatre_codec",
        model=PatchCodecConfig(num_colours=len(NAMES)),
        data=ClipsConfig(batch_size=16),
        optim=OptimConfig(learning_rate=5e-3, warmup_steps=30, decay_steps=WHOLE_RUN, ema_decay=0.999),
        train=TrainConfig(num_steps=2000, log_every=20, preview_every=500),
        stage=CodecConfig(),
    )


def theatre_decoder() -> DecoderRecipe:
    """Returns the recipe of the codec's finish: hours on a CPU core. Latents do not change."""
    return Recipe(
        name="theatre_decoder",
        model=PatchCodecConfig(
            num_colours=len(NAMES), num_past=2, num_finish_layers=5, finish_dim=256, num_pictures=2
        ),
        data=ActorClipsConfig(batch_size=24),
        optim=OptimConfig(learning_rate=1.5e-3, warmup_steps=30, decay_steps=900, ema_decay=0.995),
        train=TrainConfig(num_steps=2400, save_every=100, log_every=25, preview_every=500),
        stage=DecoderConfig(),
        inputs=Inputs(codec="theatre_codec"),
    )


def theatre_teacher() -> TeacherRecipe:
    """Returns the recipe of the theatre's teacher, bidirectional and causal in one: hours on two CPU cores.

    `resume/theatre_teacher_turns.pt` is a state of its run; `resume/theatre_teacher.pt` is the end, after
    18,900 steps, of the one that the shipped student learnt from, without turns and references.
    """
    return Recipe(
        name="theatre_teacher",
        model=model(),
        data=stories(),
        optim=OptimConfig(learning_rate=2e-3, warmup_steps=100, decay_steps=1000, ema_decay=0.9995),
        train=TrainConfig(num_steps=25_000, matmul_dtype="auto", log_every=50, preview_every=1000),
        stage=TeacherConfig(),
        inputs=Inputs(codec="theatre_codec"),
    )


def theatre_ode_pairs() -> OdePairsRecipe:
    """Returns the recipe of three thousand trajectories of the causal teacher: some minutes on a CPU."""
    return Recipe(
        name="theatre_ode_pairs",
        model=model(),
        data=replace(stories(), seed=1, batch_size=16, steps_per_block=8, caption_drop=0.0),
        optim=None,
        train=TrainConfig(num_steps=192, seed=1, save_every=10, log_every=5, preview_every=1000),
        stage=OdePairsConfig(guidance=1.0, context_guidance=2.0),
        inputs=Inputs(codec="theatre_codec", teacher="theatre_teacher"),
    )


def theatre_causal_init() -> CausalInitRecipe:
    """Returns the recipe of the four-step causal student, from its teacher's trajectories."""
    return Recipe(
        name="theatre_causal_init",
        model=model(),
        data=PairFilesConfig(),
        optim=OptimConfig(learning_rate=6e-4, warmup_steps=50, decay_steps=WHOLE_RUN, ema_decay=0.998),
        train=TrainConfig(
            num_steps=2400, seed=2, matmul_dtype="auto", save_every=200, log_every=20, preview_every=200
        ),
        stage=CausalInitConfig(),
        inputs=Inputs(codec="theatre_codec", teacher="theatre_teacher", pairs="theatre_ode_pairs"),
    )


def theatre_published_pairs() -> OdePairsRecipe:
    """Returns the recipe of trajectories of the bidirectional teacher over whole shots."""
    pairs = theatre_ode_pairs()
    return replace(
        pairs,
        name="theatre_published_pairs",
        # A trajectory of a whole shot has one caption.
        data=replace(stories(), seed=1, batch_size=16, steps_per_block=8, caption_drop=0.0, turn_share=0.0),
        stage=replace(pairs.stage, flow="bidirectional"),
    )


def theatre_published_init() -> CausalInitRecipe:
    """Returns the recipe of the causal initialisation on the published kind of trajectories."""
    init = theatre_causal_init()
    return replace(
        init, name="theatre_published_init", inputs=replace(init.inputs, pairs="theatre_published_pairs")
    )


def theatre_intra_shot() -> IntraShotRecipe:
    """Returns the recipe of the student matched to its teacher, with true earlier shots."""
    return Recipe(
        name="theatre_intra_shot",
        model=model(),
        data=replace(stories(), seed=2, batch_size=8, num_blocks=8, steps_per_block=20, caption_drop=0.0),
        optim=OptimConfig(optimizer="adamw", learning_rate=1e-4, ema_decay=0.98),
        train=TrainConfig(
            num_steps=220, seed=3, matmul_dtype="auto", save_every=20, log_every=5, preview_every=40
        ),
        stage=IntraShotConfig(context_guidance=2.0, fake_updates=4, fake_learning_rate=4e-4),
        inputs=Inputs(codec="theatre_codec", teacher="theatre_teacher", student="theatre_causal_init"),
    )


def theatre_inter_shot() -> InterShotRecipe:
    """Returns the recipe of the student matched to its teacher, with its own earlier shots."""
    return Recipe(
        name="theatre_inter_shot",
        model=model(),
        data=StoryCaptionsConfig(batch_size=8),
        optim=OptimConfig(optimizer="adamw", learning_rate=2e-4, ema_decay=0.98),
        train=TrainConfig(
            num_steps=100, seed=4, matmul_dtype="auto", save_every=20, log_every=5, preview_every=40
        ),
        stage=InterShotConfig(context_guidance=2.0, fake_updates=4, fake_learning_rate=4e-4),
        inputs=Inputs(codec="theatre_codec", teacher="theatre_teacher", student="theatre_intra_shot"),
    )
