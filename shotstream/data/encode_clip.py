"""Encodes one clip with a frozen codec and text encoder into the files that a shard holds of it.

Every shot is encoded as one video. Its frames that may become context of later shots are also encoded as
single images, as in streaming. Captions are embedded in the composed form that the text encoder gets.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from shotstream.data.clips import ShotFrames
from shotstream.data.shards import CONTEXT, DTYPES, TEXT, ShardForm
from shotstream.manifest import Clip
from shotstream.streaming.context_sampling import kept_frames
from shotstream.streaming.loading import Encoders
from shotstream.vae.pixels import from_uint8
from shotstream.video.video_io import Frames, VideoError


class EncodedClip(NamedTuple):
    """The result of encoding a clip: its files, or the reason why it is bad."""

    key: str
    num_latent_frames: tuple[int, ...]
    """Number of latent frames of each shot."""
    num_short_shots: int
    """Number of shots left out because they do not fill a chunk."""
    files: dict[str, bytes]
    """Content of the files, by the part of their names after the key."""
    bad: tuple[str, str] | None
    """Video and reason; None: the clip is good."""


def encode_clip(
    key: str, clip: Clip, shots: Sequence[ShotFrames], encoders: Encoders, form: ShardForm
) -> EncodedClip:
    """Returns the files of one clip.

    Raises:
        VideoError: No shot of the clip is long enough, or its latents are not finite.
    """
    num_short = len(clip.shot_ranges) - len(shots)
    if not shots:
        raise VideoError(f"{clip.video}: no shot fills a chunk of {form.chunk_latent_frames} latent frames")
    files: dict[str, bytes] = {}
    contexts: dict[str, Tensor] = {}
    told: list[dict[str, Any]] = []
    lengths: list[int] = []
    for position, shot in enumerate(shots):
        pixels = _pixels(shot.frames)
        chosen = kept_frames(len(shot.frames), position, form.context_budget)
        latents = _stored(encoders.codec.encode(pixels)[0], clip, form)
        singles = pixels[0, :, list(chosen)].permute(1, 0, 2, 3)[:, :, None]
        # As many at a time as the codec takes frames of a video, so that no more memory is needed.
        few = singles.split(encoders.codec.geometry.temporal_stride)
        alone = torch.cat([encoders.codec.encode(some)[:, :, 0] for some in few])
        contexts[f"shot{position}"] = _stored(alone, clip, form)
        files[f"shot{position}.safetensors"] = save({"latents": latents})
        lengths.append(latents.shape[1])
        captions = [own.caption for own in clip.story.shots[: shot.shot_index + 1]]
        told.append(
            {
                "shot_index": shot.shot_index,
                "caption": captions[-1],
                "composed": encoders.compose(clip.story.global_caption, captions),
                "frame_range": clip.shot_ranges[shot.shot_index],
                "num_frames": len(shot.frames),
                "num_latent_frames": latents.shape[1],
                "context_frames": chosen,
            }
        )
    files[CONTEXT] = save(contexts)
    if form.text_shape is not None:
        embeddings = {
            f"shot{i}": embed_caption(shot["composed"], encoders, form) for i, shot in enumerate(told)
        }
        files[TEXT] = save(embeddings)
    document = {
        "video": clip.video.name,
        "global_caption": clip.story.global_caption,
        "fps": form.fps,
        "shots": told,
    }
    files["json"] = json.dumps(document, ensure_ascii=False).encode()
    return EncodedClip(key, tuple(lengths), num_short, files, None)


def _pixels(frames: Frames) -> Float[Tensor, "1 3 f h w"]:
    return from_uint8(torch.from_numpy(frames)).permute(3, 0, 1, 2)[None]


def _stored(latents: Tensor, clip: Clip, form: ShardForm) -> Tensor:
    stored = latents.to(device="cpu", dtype=DTYPES[form.dtype]).contiguous()
    if not torch.isfinite(stored).all():
        raise VideoError(f"{clip.video}: its latents are not finite in {form.dtype}")
    return stored


@torch.no_grad()
def embed_caption(caption: str, encoders: Encoders, form: ShardForm) -> Float[Tensor, "n d"]:
    """Returns the embedding of a composed caption, without the zero rows at its end.

    Raises:
        ValueError: It is not finite in the form's dtype.
    """
    whole = encoders.text_encoder.encode([caption])[0]
    used = whole.abs().sum(dim=1).nonzero()
    num_rows = int(used.max()) + 1 if len(used) else 0
    stored = whole[:num_rows].to(device="cpu", dtype=DTYPES[form.dtype]).contiguous()
    if not torch.isfinite(stored).all():
        raise ValueError(f"an embedding is not finite in {form.dtype}; give --dtype bfloat16")
    return stored
