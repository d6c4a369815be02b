"""Captions as embeddings: the small `TextEncoder` protocol, a memo of embeddings, and Wan's UMT5 encoder.

Every caption is encoded by itself: its embedding does not depend on the captions it arrives with, so a
shot can be replayed alone. Rows past the end of a caption are zero; cross-attention reads them as they are.
transformers and ftfy come with the `wan` extra and are imported only when Wan's encoder is used.

Source: Wan2.1 (arXiv 2503.20314): umT5-XXL, 512 tokens, right truncation; captions repaired, unescaped and
collapsed.
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
    """Captions in, embeddings out; embeddings are memoised per caption."""

    @property
    def text_length(self) -> int:
        """Tokens of every embedding: longer captions are cut on the right, shorter ones get zero rows."""
        ...

    def encode(self, captions: Sequence[str]) -> Float[Tensor, "s n d"]:
        """Embeddings of captions, in order; captions may repeat. ValueError when there is none."""
        ...

    def count_tokens(self, caption: str) -> int:
        """Tokens of a caption as the encoder cleans it, special tokens included, before any cut."""
        ...

    def unknown_words(self, caption: str) -> tuple[str, ...]:
        """Words of a caption that mean nothing to the encoder, in order, without repeats."""
        ...


class CaptionMemo:
    """Embeddings by caption, the least recently used dropped first: a caption in use is encoded once."""

    def __init__(self, max_captions: int = _DEFAULT_MEMO_CAPTIONS) -> None:
        if max_captions < 1:
            raise ValueError(f"max_captions is {max_captions}; a memo holds at least 1 caption")
        self._max_captions = max_captions
        self._embeddings: OrderedDict[str, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._embeddings)

    def reset(self) -> None:
        """Forget every caption."""
        self._embeddings.clear()

    def encode(
        self, captions: Sequence[str], encode_one: Callable[[str], Float[Tensor, "n d"]]
    ) -> Float[Tensor, "s n d"]:
        """The embeddings of `captions`, in order; `encode_one` is called once for each not remembered.

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
            # Dropped only here, so that one call may ask for more captions than the memo keeps.
            if len(self._embeddings) > self._max_captions:
                self._embeddings.popitem(last=False)
        return torch.stack([found[caption] for caption in captions])


@dataclass(frozen=True, kw_only=True, slots=True)
class UMT5Config:
    """Sizes of the encoder; the defaults are umT5-XXL's as Wan2.1 uses it."""

    vocab_size: int = 256384
    """Rows of the token embedding."""
    dim: int = 4096
    """Width of an embedding."""
    dim_ffn: int = 10240
    """Hidden width of the gated feed-forward."""
    num_heads: int = 64
    """Attention heads; their width is dim / num_heads."""
    num_layers: int = 24
    """Transformer blocks, each with its own relative position bias."""
    num_buckets: int = 32
    """Buckets of relative distance."""
    text_length: int = 512
    """Tokens of every embedding."""

    def __post_init__(self) -> None:
        refuse_sizes(
            self, ("vocab_size", "dim", "dim_ffn", "num_heads", "num_layers", "num_buckets", "text_length")
        )
        if self.dim % self.num_heads:
            raise ValueError(
                f"dim {self.dim} is not a multiple of num_heads {self.num_heads}; heads share the width"
            )


class UMT5TextEncoder:
    """Wan's `TextEncoder`: frozen weights on one device, in one dtype, and a memo of captions."""

    def __init__(
        self,
        config: UMT5Config,
        module: "UMT5EncoderModel",
        tokenizer: Tokenizer,
        memo: CaptionMemo | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        """`device` is where the layers compute, when that is not where the weights are."""
        self._config = config
        self._device = module.shared.weight.device if device is None else torch.device(device)
        self._takes_ids_at = module.shared.weight.device
        self._module: Any = module.eval().requires_grad_(False)
        self._memo = CaptionMemo() if memo is None else memo
        self._tokenizer = tokenizer
        # Lengths are ours to handle: a tokenizer file may carry another model's cut and padding.
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
        """The encoder with the given weights, under transformers' names (see `umt5_shapes`).

        With `offload` the weights stay where and as they are, and layers visit the device one by one.

        Raises:
            ValueError: transformers is not installed; the tokenizer file is missing or unreadable.
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
        """Tokens of every embedding."""
        return self._config.text_length

    @property
    def memo(self) -> CaptionMemo:
        """Embeddings of the captions met last."""
        return self._memo

    @property
    def device(self) -> torch.device:
        """The device that computes, and that the embeddings are on."""
        return self._device

    def encode(self, captions: Sequence[str]) -> Float[Tensor, "s n d"]:
        """Embeddings of captions, in order, in the weights' dtype; rows past a caption's end are zero."""
        return self._memo.encode(captions, self._encode_one)

    def count_tokens(self, caption: str) -> int:
        """Tokens of a caption after cleaning, the end mark included, before any cut."""
        return len(self._tokenizer.encode(clean_caption(caption)).ids)

    def unknown_words(self, caption: str) -> tuple[str, ...]:  # noqa: ARG002 (the protocol's argument)
        """Nothing: the vocabulary falls back to bytes."""
        return ()

    def _encode_one(self, caption: str) -> Float[Tensor, "n d"]:
        ids = self._tokenizer.encode(clean_caption(caption)).ids
        if len(ids) > self.text_length:
            # The cut is on the right and the end mark, the last token, stays.
            ids = [*ids[: self.text_length - 1], ids[-1]]
        padded = torch.zeros(1, self.text_length, dtype=torch.long)
        padded[0, : len(ids)] = torch.tensor(ids)
        mask = (torch.arange(self.text_length) < len(ids)).long()[None]
        return embed_tokens(self._module, send(padded, self._takes_ids_at), send(mask, self.device))[0]


@torch.no_grad()
def embed_tokens(
    module: "UMT5EncoderModel", ids: Int[Tensor, "s n"], mask: Int[Tensor, "s n"]
) -> Float[Tensor, "s n d"]:
    """UMT5 embeddings of token ids; rows where `mask` is 0 are zero, and no other row sees them."""
    embeddings = module(input_ids=ids, attention_mask=mask).last_hidden_state
    return embeddings * mask[..., None].to(embeddings.dtype)


def clean_caption(caption: str) -> str:
    """A caption with broken encodings repaired, HTML entities resolved twice, and white space collapsed.

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
    """The tokenizer of a `tokenizer.json`; ValueError when it is missing or is not one."""
    if not path.is_file():
        raise ValueError(f"{path}: no such tokenizer; it should be the tokenizer.json of google/umt5-xxl")
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises nothing narrower
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
    """transformers' encoder with the given weights; RuntimeError unless names and shapes are exactly its own.

    None as device or dtype leaves the tensors' own.

    Raises:
        ValueError: transformers is not installed.
    """
    module = _build_on_meta(config)
    placed = {name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors.items()}
    # The input embedding has two names in transformers and one tensor; the bundle holds it once.
    if "shared.weight" in placed:
        placed["encoder.embed_tokens.weight"] = placed["shared.weight"]
    module.load_state_dict(placed, strict=True, assign=True)
    return module


def umt5_shapes(config: UMT5Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor `build_umt5` takes; ValueError when transformers is not installed."""
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
    with torch.device("meta"):
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
