"""Converts the configurations of earlier runs, in which stages were nested, to the form of this version.

There a recipe had `stage`, `loop` and a list of `inputs`; a stage's configuration contained that of its
teacher, with the model, the data and the optimizer in it. Settings that were never used are dropped.
"""

from collections.abc import Mapping
from typing import Any, Final

from shotstream.training.recipe import WHOLE_RUN

_Document = dict[str, Any]

_TRAIN: Final = (
    "num_steps", "stop_at", "save_every", "log_every", "preview_every", "keep", "accumulation",
    "samples_at_once", "activation_checkpointing", "compile", "tensorboard",
)  # fmt: skip
_POOL: Final = ("seed", "block_stories", "num_blocks", "steps_per_block", "num_shots", "num_latent_frames")
_SHARDS: Final = ("directory", "seed", "max_latent_frames", "num_workers", "read_ahead", "max_bad")
_DMD: Final = (
    "student_steps", "guidance", "context_guidance", "least_sigma", "most_sigma", "fake_updates",
    "fake_warmup_steps", "fake_max_norm",
)  # fmt: skip


_DEFAULTS: Final[Mapping[str, _Document]] = {
    "CodecTraining": {"seed": 0, "batch_size": 16, "learning_rate": 5e-3},
    "DecoderTraining": {"seed": 0, "learning_rate": 1.5e-3, "warmup_steps": 30, "ema_decay": 0.995},
    "TeacherTraining": {
        "batch_size": 16, "learning_rate": 1.5e-3, "warmup_steps": 100, "ema_decay": 0.9995,
        "caption_drop": 0.1, "matmul_dtype": "auto",
    },
    "OdePairsTraining": {"seed": 1},
    "CausalInitTraining": {
        "seed": 2, "learning_rate": 2e-4, "warmup_steps": 50, "ema_decay": 0.995, "decays": True,
    },
    "DmdTraining": {
        "seed": 3, "student_rate": 2e-5, "fake_rate": 1e-4, "student_max_norm": 1.0, "ema_decay": 0.98,
    },
}  # fmt: skip
"""Defaults, then in use, of settings that a saved configuration may lack."""


def flattened(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a recipe's document in the form of this version; others are returned unchanged."""
    if "loop" not in document:
        return _with_own_model(_without_words(document))
    stage = _complete(document["stage"])
    kind = str(stage.get("kind"))
    if kind not in _STAGES:
        return document  # refused by whoever reads it
    return _with_own_model(
        {
            "name": document["name"],
            "inputs": {"kind": "Inputs", **_inputs(kind, document.get("inputs", []))},
            **_STAGES[kind](stage, _some(document["loop"], _TRAIN)),
        }
    )


def _without_words(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the document of a model whose text encoder was trained, of words, with today's instead."""
    model, inputs = document.get("model", {}), document.get("inputs", {})
    if model.get("text", {}).get("kind") == "WordEncoderConfig":
        document = {**document, "model": {**model, "text": _text(model["text"])}}
    if "text_encoder" in inputs:
        inputs = {role: name for role, name in inputs.items() if role != "text_encoder"}
        document = {**document, "inputs": inputs}
    return document


def _with_own_model(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the document with a removed setting of the transformer as a model of `experiments/`."""
    model = document.get("model", {})
    number = model.get("dit", {}).get("num_shot_embeddings", 0)
    if not number:
        return document
    own = {"kind": "ShotEmbeddingModelConfig", "num_shot_embeddings": number}
    return {**document, "model": {**model, **own, "dit": {**model["dit"], "num_shot_embeddings": 0}}}


def _inputs(kind: str, names: list[str]) -> dict[str, str]:
    """Returns the names of inputs by their role."""
    found: dict[str, str] = {}
    for name in names:
        if name.endswith("_codec"):
            role = "codec"
        elif name.endswith("_text"):
            continue
        elif name.endswith("_teacher"):
            role = "teacher"
        else:
            role = "pairs" if name.endswith("_pairs") else "student"
        found[role] = name
    if kind == "CausalInitTraining" and not found["teacher"].startswith("wan_"):
        found["codec"] = "theatre_codec"
    return found


def _codec(stage: _Document, train: _Document) -> _Document:
    return {
        "model": stage["codec"],
        "data": {"kind": "ClipsConfig", "batch_size": stage["batch_size"]},
        "optim": _optim(stage, warmup_steps=30, decay_steps=WHOLE_RUN),
        "train": {**train, "seed": stage["seed"]},
        "stage": {"kind": "CodecConfig", **_some(stage, ("pixels_per_cell", "max_noise"))},
    }


def _decoder(stage: _Document, train: _Document) -> _Document:
    data = ("batch_size", "num_latent_frames", "framing_weights", "still_weight")
    own = ("cells_per_clip", "pixels_per_cell", "figure_weight", "max_noise")
    return {
        "model": stage["codec"],
        "data": {"kind": "ActorClipsConfig", **_some(stage, data)},
        "optim": _optim(stage),
        "train": {**train, "seed": stage["seed"]},
        "stage": {"kind": "DecoderConfig", **_some(stage, own)},
    }


def _teacher(stage: _Document, train: _Document) -> _Document:
    own = ("learns", "causal_share", "clean_history", "figure_share", "max_figure_weight")
    return {
        "model": _model(stage),
        "data": _shots(stage, caption_drop=stage["caption_drop"]),
        "optim": _optim(stage),
        "train": {**train, **_some(stage, ("seed", "matmul_dtype"))},
        "stage": {"kind": "TeacherConfig", **_some(stage, own)},
    }


def _ode_pairs(stage: _Document, train: _Document) -> _Document:
    own = ("student_steps", "substeps", "guidance", "context_guidance", "flow")
    return {
        "model": _model(stage["teacher"]),
        "data": _shots(stage["teacher"]),
        "optim": None,
        "train": {**train, **_some(stage, ("seed", "matmul_dtype"))},
        "stage": {"kind": "OdePairsConfig", **_some(stage, own)},
    }


def _causal_init(stage: _Document, train: _Document) -> _Document:
    pairs = stage["pairs"]
    decay_steps = WHOLE_RUN if stage["decays"] else 1
    return {
        "model": _model(pairs["teacher"]),
        "data": {"kind": "PairFilesConfig", **_some(stage, ("max_bad_files",))},
        "optim": _optim(stage, decay_steps=decay_steps),
        "train": {**train, **_some(stage, ("seed", "matmul_dtype"))},
        "stage": {"kind": "CausalInitConfig", **_some(pairs, ("student_steps",))},
    }


def _matching(stage: _Document, train: _Document) -> _Document:
    dmd = stage["dmd"]
    return {
        "model": _model(dmd["teacher"]),
        "optim": {
            "kind": "OptimConfig",
            "optimizer": "adamw",
            "learning_rate": dmd["student_rate"],
            "max_norm": dmd["student_max_norm"],
            "ema_decay": dmd["ema_decay"],
        },
        "train": {**train, **_some(dmd, ("seed", "matmul_dtype"))},
        "stage": {**_some(dmd, _DMD), "fake_learning_rate": dmd["fake_rate"]},
    }


def _intra_shot(stage: _Document, train: _Document) -> _Document:
    found = _matching(stage, train)
    found["stage"]["kind"] = "IntraShotConfig"
    return {**found, "data": _shots(stage["dmd"]["teacher"])}


def _inter_shot(stage: _Document, train: _Document) -> _Document:
    found = _matching(stage, train)
    found["stage"] |= {"kind": "InterShotConfig", **_some(stage, ("lora_rank", "lora_alpha"))}
    teacher: _Document = stage["dmd"]["teacher"]
    pool, own = teacher["pool"], _some(teacher, ("batch_size", "shot_weights"))
    if pool["kind"] == "ShardsConfig":
        data = {"kind": "ShardCaptionsConfig", **own, **_some(pool, ("directory", "max_latent_frames"))}
    else:
        data = {"kind": "StoryCaptionsConfig", **own, **_some(pool, ("num_latent_frames",))}
    return {**found, "data": data}


_STAGES: Final = {
    "CodecTraining": _codec,
    "DecoderTraining": _decoder,
    "TeacherTraining": _teacher,
    "OdePairsTraining": _ode_pairs,
    "CausalInitTraining": _causal_init,
    "IntraShotTraining": _intra_shot,
    "InterShotTraining": _inter_shot,
}


def _model(teacher: _Document) -> _Document:
    own = _some(teacher, ("dit", "shift", "context_policy", "start"))
    return {"kind": "ModelConfig", **own, "text": _text(teacher["text"])}


def _text(document: _Document) -> _Document:
    """Returns the document of the text encoder; one of words is today's, which has the same vectors."""
    return {"kind": "CaptionEncoderConfig"} if "words" in document else document


def _shots(teacher: _Document, caption_drop: float = 0.0) -> _Document:
    pool = teacher["pool"]
    own = _some(teacher, ("batch_size", "context_drop")) | {"caption_drop": caption_drop}
    if pool["kind"] == "ShardsConfig":
        return {"kind": "ShardsConfig", **own, **_some(pool, _SHARDS)}
    own |= _some(teacher, ("shot_weights", "pair_share"))
    return {"kind": "StoryPoolConfig", **own, **_some(pool, _POOL)}


def _optim(stage: _Document, **more: int) -> _Document:
    names = ("learning_rate", "max_norm", "warmup_steps", "decay_steps", "ema_decay")
    optimizer = {"optimizer": stage["optimiser"]} if "optimiser" in stage else {}
    return {"kind": "OptimConfig", **_some(stage, names), **optimizer, **more}


def _complete(value: Any) -> Any:
    """Returns a document in which every configuration has all settings of its version."""
    if not isinstance(value, dict):
        return value
    own = {name: _complete(item) for name, item in value.items()}
    return {**_DEFAULTS.get(str(value.get("kind")), {}), **own}


def _some(document: _Document, names: tuple[str, ...]) -> _Document:
    """Returns the named settings of a document that it has; the others have their defaults."""
    return {name: document[name] for name in names if name in document}
