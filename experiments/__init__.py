"""The paper's ablations, and all that serves only them: outside the package, which knows nothing of it.

`register` adds their context policies, their recipes and their model to the tables in which the package looks
such things up by name. `python -m experiments` is the command `shotstream` after that, with one command more,
`ablate`; so whatever was made of an ablation is trained, scored and filmed by the same commands as all else.
"""

from experiments.ablations import STAGES
from experiments.policies import FirstAndLastFrames, FirstFrames, TargetCaption
from experiments.shot_embedding import ShotEmbeddingModelConfig
from shotstream.streaming.context_sampling import POLICIES
from shotstream.training.recipes import RECIPES
from shotstream.training.saved_recipes import KINDS


def register() -> None:
    """Makes the names of the ablations known to everything in this process that reads names."""
    POLICIES["first_frames"] = FirstFrames()
    POLICIES["first_and_last_frames"] = FirstAndLastFrames()
    POLICIES["target_caption"] = TargetCaption()
    RECIPES.update(dict.fromkeys(STAGES, "experiments.recipes"))
    KINDS.add(ShotEmbeddingModelConfig)
