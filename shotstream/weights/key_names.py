"""Tensor names: published ones mapped to ShotStream's, one bijection per network; and tensor shapes.

ShotStream's transformer has the published parameter names; the codec and the text encoder have the names of
the libraries that they wrap (diffusers, transformers). Every table is computed from the sizes, so it lists
exactly the keys that a checkpoint must have. The functions depend on sizes alone; no file is read.

Source: the published Wan2.1-T2V-1.3B files and the published ShotStream code and weights (arXiv 2603.25746).
"""

from collections.abc import Iterator

from shotstream.model.config import DiTConfig
from shotstream.vae.wan_vae import WanVAEConfig

_LINEAR = ("weight", "bias")


def dit_shapes(config: DiTConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor of a transformer, by its published name (ShotStream's too)."""
    dim, ffn = config.dim, config.ffn_dim
    patch = (1, config.patch_size, config.patch_size)
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (dim, config.latent_channels, *patch),
        "patch_embedding.bias": (dim,),
        "head.modulation": (1, 2, dim),
        **_linear_shapes("text_embedding.0", config.text_dim, dim),
        **_linear_shapes("text_embedding.2", dim, dim),
        **_linear_shapes("time_embedding.0", config.freq_dim, dim),
        **_linear_shapes("time_embedding.2", dim, dim),
        **_linear_shapes("time_projection.1", dim, 6 * dim),
        **_linear_shapes("head.head", dim, config.latent_channels * config.patch_size**2),
    }
    for layer in range(config.num_layers):
        block = f"blocks.{layer}"
        shapes[f"{block}.modulation"] = (1, 6, dim)
        shapes[f"{block}.norm3.weight"] = shapes[f"{block}.norm3.bias"] = (dim,)
        for attention in ("self_attn", "cross_attn"):
            for part in "qkvo":
                shapes |= _linear_shapes(f"{block}.{attention}.{part}", dim, dim)
            for part in ("norm_q", "norm_k"):
                shapes[f"{block}.{attention}.{part}.weight"] = (dim,)
        shapes |= _linear_shapes(f"{block}.ffn.0", dim, ffn) | _linear_shapes(f"{block}.ffn.2", ffn, dim)
    return shapes


def _linear_shapes(name: str, num_in: int, num_out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (num_out, num_in), f"{name}.bias": (num_out,)}


def dit_names_of_diffusers(num_layers: int) -> dict[str, str]:
    """Returns diffusers' name -> published name, for every tensor of a `WanTransformer3DModel`."""
    pairs = {"scale_shift_table": "head.modulation"}
    for theirs, ours in (
        ("patch_embedding", "patch_embedding"),
        ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
        ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
        ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
        ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
        ("condition_embedder.time_proj", "time_projection.1"),
        ("proj_out", "head.head"),
    ):
        pairs |= _both(theirs, ours)
    for layer in range(num_layers):
        block = f"blocks.{layer}"
        pairs[f"{block}.scale_shift_table"] = f"{block}.modulation"
        for theirs, ours in (("norm2", "norm3"), ("ffn.net.0.proj", "ffn.0"), ("ffn.net.2", "ffn.2")):
            pairs |= _both(f"{block}.{theirs}", f"{block}.{ours}")
        for theirs, ours in (("attn1", "self_attn"), ("attn2", "cross_attn")):
            for their_part, our_part in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "o")):
                pairs |= _both(f"{block}.{theirs}.{their_part}", f"{block}.{ours}.{our_part}")
            for part in ("norm_q.weight", "norm_k.weight"):
                pairs[f"{block}.{theirs}.{part}"] = f"{block}.{ours}.{part}"
    return pairs


def umt5_names(num_layers: int) -> dict[str, str]:
    """Returns published name -> transformers' name, for every tensor of the UMT5 encoder."""
    pairs = {
        "token_embedding.weight": "shared.weight",
        "norm.weight": "encoder.final_layer_norm.weight",
    }
    for layer in range(num_layers):
        theirs, ours = f"blocks.{layer}", f"encoder.block.{layer}.layer"
        bias = f"{ours}.0.SelfAttention.relative_attention_bias.weight"
        for part in "qkvo":
            pairs[f"{theirs}.attn.{part}.weight"] = f"{ours}.0.SelfAttention.{part}.weight"
        pairs |= {
            f"{theirs}.pos_embedding.embedding.weight": bias,
            f"{theirs}.norm1.weight": f"{ours}.0.layer_norm.weight",
            f"{theirs}.ffn.gate.0.weight": f"{ours}.1.DenseReluDense.wi_0.weight",
            f"{theirs}.ffn.fc1.weight": f"{ours}.1.DenseReluDense.wi_1.weight",
            f"{theirs}.ffn.fc2.weight": f"{ours}.1.DenseReluDense.wo.weight",
            f"{theirs}.norm2.weight": f"{ours}.1.layer_norm.weight",
        }
    return pairs


def vae_names(config: WanVAEConfig) -> dict[str, str]:
    """Returns published name -> diffusers' name, for every tensor of the Wan2.1 VAE."""
    return dict(_vae_pairs(config))


def _vae_pairs(config: WanVAEConfig) -> Iterator[tuple[str, str]]:
    yield from _both("conv1", "quant_conv").items()
    yield from _both("conv2", "post_quant_conv").items()
    for side in ("encoder", "decoder"):
        yield from _both(f"{side}.conv1", f"{side}.conv_in").items()
        yield from _residual(f"{side}.middle.0", f"{side}.mid_block.resnets.0")
        yield f"{side}.middle.1.norm.gamma", f"{side}.mid_block.attentions.0.norm.gamma"
        for part in ("to_qkv", "proj"):
            yield from _both(f"{side}.middle.1.{part}", f"{side}.mid_block.attentions.0.{part}").items()
        yield from _residual(f"{side}.middle.2", f"{side}.mid_block.resnets.1")
        yield f"{side}.head.0.gamma", f"{side}.norm_out.gamma"
        yield from _both(f"{side}.head.2", f"{side}.conv_out").items()
    yield from _vae_encoder_levels(config)
    yield from _vae_decoder_levels(config)


def _vae_encoder_levels(config: WanVAEConfig) -> Iterator[tuple[str, str]]:
    """Yields name prefixes; both sides number the encoder's residual blocks and downsamplers alike."""
    index, width = 0, 1
    for level, mult in enumerate(config.dim_mult):
        for _ in range(config.num_res_blocks):
            names = f"encoder.downsamples.{index}", f"encoder.down_blocks.{index}"
            yield from _residual(*names, shortcut=mult != width)
            index, width = index + 1, mult
        if level < len(config.temporal_downsample):
            names = f"encoder.downsamples.{index}", f"encoder.down_blocks.{index}"
            yield from _resample(*names, temporal=config.temporal_downsample[level])
            index += 1


def _vae_decoder_levels(config: WanVAEConfig) -> Iterator[tuple[str, str]]:
    """Yields name prefixes of the decoder.

    The published decoder numbers all blocks and upsamplers in one sequence; diffusers groups them by level.
    """
    index, width = 0, config.dim * config.dim_mult[-1]
    temporal = config.temporal_downsample[::-1]
    for level, mult in enumerate(reversed(config.dim_mult)):
        ours = f"decoder.up_blocks.{level}"
        for block in range(config.num_res_blocks + 1):
            shortcut = config.dim * mult != width
            yield from _residual(f"decoder.upsamples.{index}", f"{ours}.resnets.{block}", shortcut=shortcut)
            index, width = index + 1, config.dim * mult
        if level < len(temporal):
            yield from _resample(
                f"decoder.upsamples.{index}", f"{ours}.upsamplers.0", temporal=temporal[level]
            )
            # Upsampling halves the channels.
            index, width = index + 1, width // 2


def _residual(theirs: str, ours: str, *, shortcut: bool = False) -> Iterator[tuple[str, str]]:
    yield f"{theirs}.residual.0.gamma", f"{ours}.norm1.gamma"
    yield from _both(f"{theirs}.residual.2", f"{ours}.conv1").items()
    yield f"{theirs}.residual.3.gamma", f"{ours}.norm2.gamma"
    yield from _both(f"{theirs}.residual.6", f"{ours}.conv2").items()
    if shortcut:
        yield from _both(f"{theirs}.shortcut", f"{ours}.conv_shortcut").items()


def _resample(theirs: str, ours: str, *, temporal: bool) -> Iterator[tuple[str, str]]:
    yield from _both(f"{theirs}.resample.1", f"{ours}.resample.1").items()
    if temporal:
        yield from _both(f"{theirs}.time_conv", f"{ours}.time_conv").items()


def _both(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.{part}": f"{ours}.{part}" for part in _LINEAR}
