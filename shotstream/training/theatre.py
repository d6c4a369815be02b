"""The runs of the theatre's model, and of a shorter course that an ablation takes through the same stages."""

import dataclasses

from shotstream.codec.patch_codec import PatchCodecConfig
from shotstream.codec.word_encoder import WordEncoderConfig
from shotstream.data.latents import PoolConfig
from shotstream.model.config import DiTConfig
from shotstream.theatre.captions import vocabulary
from shotstream.theatre.palette import NAMES
from shotstream.theatre.questions import QUESTIONS
from shotstream.training.loop import LoopConfig
from shotstream.training.recipe import Recipe
from shotstream.training.stages.causal_init import CausalInitTraining
from shotstream.training.stages.codec import CodecTraining
from shotstream.training.stages.decoder import DecoderTraining
from shotstream.training.stages.dmd import DmdTraining
from shotstream.training.stages.inter_shot import InterShotTraining
from shotstream.training.stages.intra_shot import IntraShotTraining
from shotstream.training.stages.ode_pairs import OdePairsTraining
from shotstream.training.stages.reader import ReaderTraining
from shotstream.training.stages.teacher import TeacherTraining


def theatre_codec() -> Recipe:
    """The theatre's codec: about a quarter of an hour on two CPU cores."""
    num_steps = 2000
    return Recipe(
        name="theatre_codec",
        stage=CodecTraining(codec=PatchCodecConfig(num_colours=len(NAMES)), num_steps=num_steps),
        loop=LoopConfig(num_steps=num_steps, log_every=20, preview_every=500),
    )


def theatre_decoder() -> Recipe:
    """The finish of the codec's decoder: hours on a CPU core. Latents stay as they are."""
    num_steps = 2400
    return Recipe(
        name="theatre_decoder",
        stage=DecoderTraining(
            codec=PatchCodecConfig(
                num_colours=len(NAMES), num_past=2, num_finish_layers=5, finish_dim=256, num_pictures=2
            ),
            num_steps=num_steps,
            decay_steps=900,
        ),
        loop=LoopConfig(num_steps=num_steps, save_every=100, log_every=25, preview_every=500),
        inputs=("theatre_codec",),
    )


def theatre_text() -> Recipe:
    """The theatre's text encoder: some minutes on a CPU core."""
    num_steps = 1600
    return Recipe(
        name="theatre_text",
        stage=ReaderTraining(
            text=WordEncoderConfig(words=vocabulary(), questions=QUESTIONS), num_steps=num_steps
        ),
        loop=LoopConfig(num_steps=num_steps, log_every=100, preview_every=500),
    )


def theatre_teacher() -> Recipe:
    """The theatre's teacher, bidirectional and causal in one: hours on two CPU cores.

    As long as the run whose end is packed in `resume/theatre_teacher.pt`; a larger number of steps goes on
    from it.
    """
    num_steps = 18_900
    dim = 192
    return Recipe(
        name="theatre_teacher",
        stage=TeacherTraining(
            dit=DiTConfig(
                latent_channels=16,
                dim=dim,
                ffn_dim=4 * dim,
                num_heads=3,
                num_layers=6,
                text_dim=128,
                text_length=len(QUESTIONS),
                freq_dim=128,
            ),
            text=WordEncoderConfig(words=vocabulary(), questions=QUESTIONS),
            pool=PoolConfig(num_blocks=10, steps_per_block=80),
            num_steps=num_steps,
            decay_steps=1000,
            batch_size=24,
            learning_rate=2e-3,
        ),
        loop=LoopConfig(num_steps=num_steps, log_every=50, preview_every=1000),
        inputs=("theatre_codec", "theatre_text"),
    )


def _teacher() -> TeacherTraining:
    stage = theatre_teacher().stage
    assert isinstance(stage, TeacherTraining)
    return stage


def theatre_ode_pairs() -> Recipe:
    """Three thousand trajectories of the causal teacher, guided by context: some minutes on a CPU."""
    pool = dataclasses.replace(_teacher().pool, seed=1, steps_per_block=8)
    return Recipe(
        name="theatre_ode_pairs",
        stage=OdePairsTraining(
            teacher=dataclasses.replace(_teacher(), batch_size=16, pool=pool),
            guidance=1.0,
            context_guidance=2.0,
        ),
        loop=LoopConfig(num_steps=192, save_every=10, log_every=5, preview_every=1000),
        inputs=("theatre_codec", "theatre_teacher"),
    )


def theatre_causal_init() -> Recipe:
    """The four-step causal student, from its teacher and the teacher's trajectories."""
    pairs = theatre_ode_pairs()
    assert isinstance(pairs.stage, OdePairsTraining)
    num_steps = 2400
    return Recipe(
        name="theatre_causal_init",
        stage=CausalInitTraining(
            pairs=pairs.stage,
            num_steps=num_steps,
            learning_rate=6e-4,
            ema_decay=0.998,
            matmul_dtype="auto",
        ),
        loop=LoopConfig(num_steps=num_steps, save_every=200, log_every=20, preview_every=200),
        inputs=("theatre_teacher", "theatre_ode_pairs"),
    )


def theatre_published_pairs() -> Recipe:
    """As many trajectories as `theatre_ode_pairs` has, of the bidirectional teacher over whole shots."""
    pairs = theatre_ode_pairs()
    assert isinstance(pairs.stage, OdePairsTraining)
    stage = dataclasses.replace(pairs.stage, flow="bidirectional")
    return dataclasses.replace(pairs, name="theatre_published_pairs", stage=stage)


def theatre_published_init() -> Recipe:
    """The causal initialisation on trajectories of the published kind, beside `theatre_causal_init`."""
    init, pairs = theatre_causal_init(), theatre_published_pairs().stage
    assert isinstance(init.stage, CausalInitTraining) and isinstance(pairs, OdePairsTraining)
    return dataclasses.replace(
        init,
        name="theatre_published_init",
        stage=dataclasses.replace(init.stage, pairs=pairs),
        inputs=("theatre_teacher", "theatre_published_pairs"),
    )


def _matching(num_steps: int) -> DmdTraining:
    pool = dataclasses.replace(_teacher().pool, seed=2, num_blocks=8, steps_per_block=20)
    return DmdTraining(
        teacher=dataclasses.replace(_teacher(), batch_size=8, pool=pool),
        num_steps=num_steps,
        context_guidance=2.0,
        fake_updates=4,
        student_rate=1e-4,
        fake_rate=4e-4,
        matmul_dtype="auto",
    )


def theatre_intra_shot() -> Recipe:
    """The student matched to the bidirectional teacher, given true earlier shots."""
    num_steps = 220
    return Recipe(
        name="theatre_intra_shot",
        stage=IntraShotTraining(dmd=_matching(num_steps)),
        loop=LoopConfig(num_steps=num_steps, save_every=20, log_every=5, preview_every=40),
        inputs=("theatre_codec", "theatre_teacher", "theatre_causal_init"),
    )


def theatre_inter_shot() -> Recipe:
    """The student matched to the bidirectional teacher, given its own earlier shots."""
    num_steps = 100
    return Recipe(
        name="theatre_inter_shot",
        stage=InterShotTraining(dmd=dataclasses.replace(_matching(num_steps), seed=4, student_rate=2e-4)),
        loop=LoopConfig(num_steps=num_steps, save_every=20, log_every=5, preview_every=40),
        inputs=("theatre_codec", "theatre_teacher", "theatre_intra_shot"),
    )


def mini_teacher() -> Recipe:
    """The beginning of an ablation, for which `shotstream ablate` forks the theatre's teacher.

    By itself the recipe would train all of it anew.
    """
    num_steps, fork = theatre_teacher().loop.num_steps, 400
    return Recipe(
        name="mini_teacher",
        stage=dataclasses.replace(
            _teacher(),
            pool=dataclasses.replace(_teacher().pool, block_stories=32),
            num_steps=num_steps + fork,
            decay_steps=fork,
            batch_size=12,
            learning_rate=1e-3,
            ema_decay=0.98,
        ),
        loop=LoopConfig(num_steps=num_steps + fork, log_every=50, preview_every=1000),
        inputs=("theatre_codec", "theatre_text"),
    )


def _mini() -> TeacherTraining:
    stage = mini_teacher().stage
    assert isinstance(stage, TeacherTraining)
    return stage


def mini_ode_pairs() -> Recipe:
    """Trajectories of a row's teacher."""
    pairs = theatre_ode_pairs().stage
    assert isinstance(pairs, OdePairsTraining)
    pool = dataclasses.replace(_mini().pool, seed=1, steps_per_block=4)
    return Recipe(
        name="mini_ode_pairs",
        stage=dataclasses.replace(
            pairs, teacher=dataclasses.replace(_mini(), pool=pool), context_guidance=1.0
        ),
        loop=LoopConfig(num_steps=24, save_every=4, log_every=4, preview_every=1000),
        inputs=("theatre_codec", "mini_teacher"),
    )


def mini_causal_init() -> Recipe:
    """A row's student."""
    init, pairs, num_steps = theatre_causal_init().stage, mini_ode_pairs().stage, 150
    assert isinstance(init, CausalInitTraining) and isinstance(pairs, OdePairsTraining)
    return Recipe(
        name="mini_causal_init",
        stage=dataclasses.replace(init, pairs=pairs, num_steps=num_steps, warmup_steps=10, ema_decay=0.98),
        loop=LoopConfig(num_steps=num_steps, save_every=50, log_every=10, preview_every=1000),
        inputs=("mini_teacher", "mini_ode_pairs"),
    )


def mini_intra_shot() -> Recipe:
    """A row's student matched to its teacher, given true earlier shots."""
    return Recipe(
        name="mini_intra_shot",
        stage=IntraShotTraining(dmd=_mini_matching(40)),
        loop=LoopConfig(num_steps=40, save_every=10, log_every=5, preview_every=1000),
        inputs=("theatre_codec", "mini_teacher", "mini_causal_init"),
    )


def mini_inter_shot() -> Recipe:
    """A row's student matched to its teacher, given its own earlier shots; few steps, so large ones."""
    matching = dataclasses.replace(_mini_matching(30), seed=4, student_rate=5e-4, fake_rate=1e-3)
    return Recipe(
        name="mini_inter_shot",
        stage=InterShotTraining(dmd=matching),
        loop=LoopConfig(num_steps=30, save_every=5, log_every=5, preview_every=1000),
        inputs=("theatre_codec", "mini_teacher", "mini_intra_shot"),
    )


def _mini_matching(num_steps: int) -> DmdTraining:
    pool = dataclasses.replace(_mini().pool, seed=2, num_blocks=4, steps_per_block=20)
    teacher = dataclasses.replace(_mini(), batch_size=8, pool=pool)
    return dataclasses.replace(
        _matching(num_steps),
        teacher=teacher,
        context_guidance=1.0,
        fake_updates=3,
        fake_warmup_steps=4,
        ema_decay=0.9,
    )
