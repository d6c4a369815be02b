"""Text encoders: the `TextEncoder` protocol, a cache of embeddings, and Wan's UMT5 encoder.

Every caption is encoded alone: its embedding does not depend on other captions in the call, so a shot can be
replayed alone. Rows after the end of a caption are zero, and cross-attention attends to them. transformers
and ftfy come with the `wan` extra and are imported only when Wan's encoder is used.

Source: Wan2.1 (arXiv 2503.20314): umT5-XXL, 512 tokens, right truncation; encoding errors repaired, HTML
entities resolved, white space collapsed.
"""

import html
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from shotstream.empty_weights import init_empty_weights
from shotstream.sizes import refuse_sizes
from shotstream.text.offload import bring, visit
from shotstream.transfer import send

if TYPE_CHECKING:
    from transformers import UMT5EncoderModel

_DEFAULT_MEMO_CAPTIONS = 64

# Printable ASCII without the sign that begins an HTML entity: ftfy leaves such a caption as it is.
_PLAIN = re.compile(r"[ \t\n!-%'-~]*")


@runtime_checkable
class TextEncoder(Protocol):
    """The protocol of text encoders: captions to embeddings, which are cached per caption."""

    @property
    def text_length(self) -> int:
        """Number of tokens of every embedding: longer captions are truncated, shorter ones get zero rows."""
        ...

    def encode(self, captions: Sequence[str]) -> Float[Tensor, "s n d"]:
        """Returns the embeddings of captions, in order; captions may repeat. ValueError if there is none."""
        ...

    def count_tokens(self, caption: str) -> int:
        """Returns the number of tokens of a cleaned caption, with special tokens, before truncation."""
        ...

    def unknown_words(self, caption: str) -> tuple[str, ...]:
        """Returns the words of a caption that the encoder does not know, in order, without repeats."""
        ...

    def suggestions(self, word: str) -> tuple[str, ...]:
        """Returns known words close to an unknown one, the closest first."""
        ...


class CaptionMemo:
    """An LRU cache of embeddings by caption."""

    def __init__(self, max_captions: int = _DEFAULT_MEMO_CAPTIONS) -> None:
        if max_captions < 1:
            raise ValueError(f"max_captions is {max_captions}; a memo holds at least 1 caption")
        self._max_captions = max_captions
        self._embeddings: OrderedDict[str, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._embeddings)

    def reset(self) -> None:
        """Removes all captions."""
        self._embeddings.clear()

    def encode(
        self, captions: Sequence[str], encode_one: Callable[[str], Float[Tensor, "n d"]]
    ) -> Float[Tensor, "s n d"]:
        """Returns the embeddings of captions, in order; `encode_one` is called once for each new one.

        Raises:
            ValueError: There is no caption.
        """
        if not captions:
            raise ValueError("no caption to encode; give at least one")
        found: dict[str, Tensor] = {}
        for caption in captions:
            if caption in found:
                continue
            if caption not in self._embeddings:
                self._embeddings[caption] = encode_one(caption)
            self._embeddings.move_to_end(caption)
            found[caption] = self._embeddings[caption]
            # Removed only here, so that one call may have more captions than the cache holds.
            if len(self._embeddings) > self._max_captions:
                self._embeddings.popitem(last=False)
        return torch.stack([found[caption] for caption in captions])


@dataclass(frozen=True, kw_only=True, slots=True)
class UMT5Config:
    """Sizes of the UMT5 encoder, each at least 1; the defaults are those of umT5-XXL as Wan2.1 uses it."""

    vocab_size: int = 256384
    """Number of rows of the token embedding."""
    dim: int = 4096
    """Width of an embedding."""
    dim_ffn: int = 10240
    """Hidden width of the gated feed-forward layer."""
    num_heads: int = 64
    """Number of attention heads, a divisor of `dim`; their width is dim / num_heads."""
    num_layers: int = 24
    """Number of transformer blocks, each with its own relative position bias."""
    num_buckets: int = 32
    """Number of buckets of relative distance."""
    text_length: int = 512
    """Number of tokens of every embedding."""

    def __post_init__(self) -> None:
        refuse_sizes(
            self, ("vocab_size", "dim", "dim_ffn", "num_heads", "num_layers", "num_buckets", "text_length")
        )
        if self.dim % self.num_heads:
            raise ValueError(
                f"dim {self.dim} is not a multiple of num_heads {self.num_heads}; heads share the width"
            )


class UMT5TextEncoder:
    """Wan's `TextEncoder`: frozen weights on one device, in one dtype, and a cache of captions."""

    def __init__(
        self,
        config: UMT5Config,
        module: "UMT5EncoderModel",
        tokenizer: Tokenizer,
        memo: CaptionMemo | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        """Creates an encoder.

        Args:
            config: The sizes.
            module: transformers' encoder.
            tokenizer: The tokenizer.
            memo: The cache of embeddings; None: a new one.
            device: The device on which the layers compute; None: that of the weights.
        """
        self._config = config
        self._device = module.shared.weight.device if device is None else torch.device(device)
        self._takes_ids_at = module.shared.weight.device
        self._module: Any = module.eval().requires_grad_(False)
        self._memo = CaptionMemo() if memo is None else memo
        self._tokenizer = tokenizer
        # Lengths are handled here: a tokenizer file may contain another model's truncation and padding.
        tokenizer.no_padding()
        tokenizer.no_truncation()

    @classmethod
    def from_tensors(
        cls,
        config: UMT5Config,
        tensors: Mapping[str, Tensor],
        tokenizer_file: Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        offload: bool = False,
        memo: CaptionMemo | None = None,
    ) -> "UMT5TextEncoder":
        """Returns an encoder with the given weights, under transformers' names (see `umt5_shapes`).

        With `offload` the weights stay where they are, and each layer is copied to the device for each of its
        calls.

        Raises:
            ValueError: transformers is not installed, or the tokenizer file is missing or unreadable.
            RuntimeError: A name is missing or unexpected, or a shape differs.
        """
        tokenizer = read_tokenizer(tokenizer_file)
        if not offload:
            return cls(config, build_umt5(config, tensors, device=device, dtype=dtype), tokenizer, memo)
        module = build_umt5(config, tensors, device=None, dtype=None)
        stack: Any = module.encoder
        visit([*stack.block, stack.final_layer_norm], torch.device(device), dtype)
        bring(stack.embed_tokens, torch.device(device), dtype)
        return cls(config, module, tokenizer, memo, device=device)

    @property
    def text_length(self) -> int:
        """Number of tokens of every embedding."""
        return self._config.text_length

    @property
    def memo(self) -> CaptionMemo:
        """The cache of embeddings."""
        return self._memo

    @property
    def device(self) -> torch.device:
        """Device of the computation and of the embeddings."""
        return self._device

    def encode(self, captions: Sequence[str]) -> Float[Tensor, "s n d"]:
        """Returns embeddings in order, in the weights' dtype; rows after a caption's end are zero."""
        return self._memo.encode(captions, self._encode_one)

    def count_tokens(self, caption: str) -> int:
        """Returns the number of tokens of a cleaned caption, with the end token, before truncation."""
        return len(self._tokenizer.encode(clean_caption(caption)).ids)

    def unknown_words(self, caption: str) -> tuple[str, ...]:  # noqa: ARG002 (the protocol's argument)
        """Returns an empty tuple, because the vocabulary falls back to bytes."""
        return ()

    def suggestions(self, word: str) -> tuple[str, ...]:  # noqa: ARG002 (the protocol's argument)
        """Returns an empty tuple, because no word is unknown."""
        return ()

    def _encode_one(self, caption: str) -> Float[Tensor, "n d"]:
        ids = self._tokenizer.encode(clean_caption(caption)).ids
        if len(ids) > self.text_length:
            # Truncation is on the right, and the end token stays last.
            ids = [*ids[: self.text_length - 1], ids[-1]]
        padded = torch.zeros(1, self.text_length, dtype=torch.long)
        padded[0, : len(ids)] = torch.tensor(ids)
        mask = (torch.arange(self.text_length) < len(ids)).long()[None]
        return embed_tokens(self._module, send(padded, self._takes_ids_at), send(mask, self.device))[0]


@torch.no_grad()
def embed_tokens(
    module: "UMT5EncoderModel", ids: Int[Tensor, "s n"], mask: Int[Tensor, "s n"]
) -> Float[Tensor, "s n d"]:
    """Returns UMT5 embeddings of token ids; rows where `mask` is 0 are zero and not attended to."""
    embeddings = module(input_ids=ids, attention_mask=mask).last_hidden_state
    return embeddings * mask[..., None].to(embeddings.dtype)


def clean_caption(caption: str) -> str:
    """Returns a caption with encoding errors repaired, HTML entities resolved, white space collapsed.

    Raises:
        ValueError: ftfy is not installed, and the caption has something that it could repair.
    """
    if _PLAIN.fullmatch(caption):
        return " ".join(caption.split())
    try:
        import ftfy
    except ImportError as error:
        raise ValueError(
            "Wan's captions need ftfy; install it with: pip install 'shotstream[wan]'"
        ) from error
    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(caption)))).strip()


def read_tokenizer(path: Path) -> Tokenizer:
    """Returns the tokenizer of a `tokenizer.json`; raises ValueError if it is missing or invalid."""
    if not path.is_file():
        raise ValueError(f"{path}: no such tokenizer; it should be the tokenizer.json of google/umt5-xxl")
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises no narrower type
        raise ValueError(
            f"{path}: damaged, or not a tokenizer.json; fetch that of google/umt5-xxl again"
        ) from error


def build_umt5(
    config: UMT5Config,
    tensors: Mapping[str, Tensor],
    *,
    device: torch.device | str | None = "cpu",
    dtype: torch.dtype | None = torch.float32,
) -> "UMT5EncoderModel":
    """Returns transformers' encoder with the given weights.

    None as device or dtype keeps that of the tensors.

    Raises:
        ValueError: transformers is not installed.
        RuntimeError: A name is missing or unexpected, or a shape differs.
    """
    module = _build_on_meta(config)
    placed = {name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors.items()}
    # The input embedding has two names in transformers and one tensor; the bundle holds it once.
    if "shared.weight" in placed:
        placed["encoder.embed_tokens.weight"] = placed["shared.weight"]
    module.load_state_dict(placed, strict=True, assign=True)
    return module


def umt5_shapes(config: UMT5Config) -> dict[str, tuple[int, ...]]:
    """Returns name and shape of every tensor of `build_umt5`; ValueError if transformers is not installed."""
    state = _build_on_meta(config).state_dict()
    return {
        name: tuple(tensor.shape) for name, tensor in state.items() if name != "encoder.embed_tokens.weight"
    }


def _build_on_meta(config: UMT5Config) -> "UMT5EncoderModel":
    try:
        from transformers import UMT5Config as TransformersConfig
        from transformers import UMT5EncoderModel
    except ImportError as error:
        raise ValueError(
            "Wan's text encoder needs transformers; install it with: pip install 'shotstream[wan]'"
        ) from error
    with init_empty_weights():
        return UMT5EncoderModel(
            TransformersConfig(
                vocab_size=config.vocab_size,
                d_model=config.dim,
                d_kv=config.dim // config.num_heads,
                d_ff=config.dim_ffn,
                num_heads=config.num_heads,
                num_layers=config.num_layers,
                relative_attention_num_buckets=config.num_buckets,
                feed_forward_proj="gated-gelu",
                is_encoder_decoder=False,
                dropout_rate=0.0,
            )
        )
