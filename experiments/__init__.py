"""Experiments: the ablations of the paper, outside the package, which does not depend on them.

`register` adds their context policies, recipes and model to the tables in which the package looks up names.
`python -m experiments` is the command `shotstream` after that, with the additional commands `ablate` and
`perfect-choice`, the upper bound of a context policy; the results of an ablation can therefore be trained,
scored and streamed with the same commands as all others.
"""

from experiments.ablations import STAGES
from experiments.policies import FirstAndLastFrames, FirstFrames, TargetCaption
from experiments.shot_embedding import ShotEmbeddingModelConfig
from shotstream.streaming.context_sampling import POLICIES
from shotstream.training.recipes import RECIPES
from shotstream.training.saved_recipes import KINDS


def register() -> None:
    """Registers the names of the ablations in this process."""
    POLICIES["first_frames"] = FirstFrames()
    POLICIES["first_and_last_frames"] = FirstAndLastFrames()
    POLICIES["target_caption"] = TargetCaption()
    RECIPES.update(dict.fromkeys(STAGES, "experiments.recipes"))
    KINDS.add(ShotEmbeddingModelConfig)
