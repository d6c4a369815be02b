"""One network: causal where masked, a batch is its samples, and Wan as it was without shots."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from shotstream.geometry import TokenGrid
from shotstream.model.attention import attend_all
from shotstream.model.causal_mask import CausalMask
from shotstream.model.dit import TIMESTEPS_PER_SIGMA, DiT, sigma_embedding
from shotstream.model.positions import FramePositions, join_positions
from shotstream.model.rope import rope_table
from shotstream.weights.key_names import dit_names_of_diffusers
from tests.model.tiny import (
    CONFIG,
    GRID,
    captions,
    chunk,
    context,
    latents,
    level,
    new_cache,
    randn,
    target,
    tiny_dit,
)

NUM_FRAMES = 10
MASK = CausalMask.for_shot(CONFIG, GRID, NUM_FRAMES - 2)


def _positions(batch: int = 1) -> FramePositions:
    return join_positions(context(batch), target(NUM_FRAMES - 2, batch))


def _levels(batch: int = 1) -> Tensor:
    """A level per frame, 0 for the context."""
    levels = torch.rand(batch, NUM_FRAMES, generator=torch.Generator().manual_seed(3))
    levels[:, :2] = 0
    return levels


@torch.no_grad()
@pytest.mark.parametrize("changed", range(4))
def test_changing_a_chunk_changes_nothing_before_it(changed: int) -> None:
    dit, text, x = tiny_dit(), captions(), latents(NUM_FRAMES)
    before = dit(x, _levels(), text, _positions(), mask=MASK)
    first = 2 + 2 * changed
    moved, levels = x.clone(), _levels()
    moved[:, :, first : first + 2] += 1
    levels[:, first : first + 2] *= 0.5
    after = dit(moved, levels, text, _positions(), mask=MASK)
    assert torch.equal(before[:, :, :first], after[:, :, :first])
    # Inside a chunk attention goes both ways; after it, everything within the window sees the change.
    later = (before != after).flatten(3).any(dim=3).any(dim=1)[0, first:]
    assert later[:6].all()


@torch.no_grad()
def test_changing_the_context_changes_everything_and_the_context_sees_only_itself() -> None:
    dit, text, x = tiny_dit(), captions(), latents(NUM_FRAMES)
    before = dit(x, _levels(), text, _positions(), mask=MASK)
    moved = x.clone()
    moved[:, :, 0] += 1
    after = dit(moved, _levels(), text, _positions(), mask=MASK)
    assert (before != after).flatten(3).any(dim=3).any(dim=1).all()
    alone = dit(x[:, :, :2], _levels()[:, :2], text, context())
    torch.testing.assert_close(before[:, :, :2], alone, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("mask", [None, MASK])
def test_a_batch_is_its_samples(mask: CausalMask | None) -> None:
    dit = tiny_dit()
    x, text, sigma = latents(NUM_FRAMES, batch=3), captions(batch=3), _levels(3)
    together = dit(x, sigma, text, _positions(3), mask=mask)
    for sample in range(3):
        alone = slice(sample, sample + 1)
        expected = dit(x[alone], sigma[alone], text[alone], _positions(), mask=mask)
        torch.testing.assert_close(together[alone], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(dit(x, sigma, text, _positions(), mask=mask), together, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@torch.no_grad()
def test_both_mask_forms_give_the_same_velocity() -> None:
    dit, text, x = tiny_dit(), captions(), latents(NUM_FRAMES)
    slices, blocks = (
        dit(x, _levels(), text, _positions(), mask=replace(MASK, form=form)) for form in ("slices", "block")
    )
    torch.testing.assert_close(slices, blocks, rtol=0, atol=1e-5)


@torch.no_grad()
def test_what_was_prepared_once_gives_what_is_made_in_every_pass() -> None:
    dit, text, x = tiny_dit(), captions(), latents(NUM_FRAMES)
    expected = dit(x, _levels(), text, _positions(), mask=MASK)
    table = rope_table(_positions(), GRID, CONFIG)
    cached = dit.text_cache(text, ("one", "two", "three"))
    assert torch.equal(dit(x, _levels(), cached, table, mask=MASK), expected)


@torch.no_grad()
def test_the_shot_phase_and_the_caption_both_matter_and_are_separate() -> None:
    dit, text, x = tiny_dit(), captions(), latents(NUM_FRAMES)
    positions = _positions()
    plain = dit(x, _levels(), text, positions)
    other_phase = replace(positions, shot_phase=positions.shot_phase * 2)
    other_caption = replace(positions, caption_index=positions.caption_index * 0)
    assert not torch.allclose(dit(x, _levels(), text, other_phase), plain, atol=1e-4)
    assert not torch.allclose(dit(x, _levels(), text, other_caption), plain, atol=1e-4)
    shifted = replace(positions, shot_phase=positions.shot_phase + 3)
    torch.testing.assert_close(dit(x, _levels(), text, shifted), plain, rtol=0, atol=1e-5)


def test_levels_become_timesteps_without_losing_precision() -> None:
    """957.92877 arrived as 956 where levels passed through bfloat16; exact timesteps are 0 and 1000."""
    sigma = torch.tensor([[0.0, 1.0, 0.95792877]], dtype=torch.float64)
    embedded = sigma_embedding(sigma, 4)
    timestep = sigma * TIMESTEPS_PER_SIGMA
    expected = torch.stack(
        [timestep.cos(), (timestep / 100).cos(), timestep.sin(), (timestep / 100).sin()], -1
    )
    torch.testing.assert_close(embedded, expected, rtol=0, atol=1e-10)
    assert sigma_embedding(sigma.float(), 4).dtype == torch.float64


@torch.no_grad()
def test_a_level_is_told_in_full_to_a_half_precision_network() -> None:
    dit = tiny_dit().to(torch.bfloat16)
    x, text = latents(4), captions()
    near = [dit(x, level(value, 4), text, target(4)) for value in (0.957929, 0.956)]
    assert near[0].dtype == torch.float32
    assert not torch.equal(*near)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without")
@torch.no_grad()
def test_a_double_precision_network_loses_nothing_to_float32() -> None:
    """Only the tables of rotations are float32: the two must agree far closer than float32 networks do."""
    dit = tiny_dit().double()
    x, text = latents(NUM_FRAMES).double(), captions().double()
    slices, blocks = (
        dit(x, _levels(), text, _positions(), mask=replace(MASK, form=form)) for form in ("slices", "block")
    )
    torch.testing.assert_close(slices, blocks, rtol=0, atol=1e-12)


def test_a_new_network_predicts_zero_and_is_made_by_its_generator() -> None:
    networks = [DiT(CONFIG, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    with torch.no_grad():
        assert not networks[0](latents(4), level(0.5, 4), captions(), target(4)).any()
    states = [network.state_dict() for network in networks]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    random = [name for name in states[0] if not torch.equal(states[0][name], states[2][name])]
    constant = ("bias", "norm_q.weight", "norm_k.weight", "norm3.weight", "head.head.weight")
    assert set(states[0]) - set(random) == {name for name in states[0] if name.endswith(constant)}


@pytest.mark.parametrize("mask", [None, MASK])
def test_checkpointing_changes_no_gradient(mask: CausalMask | None) -> None:
    gradients: list[list[Tensor]] = []
    for checkpointing in (False, True):
        dit = tiny_dit()
        dit.activation_checkpointing = checkpointing
        dit(latents(NUM_FRAMES), _levels(), captions(), _positions(), mask=mask).square().mean().backward()
        gradients.append([parameter.grad for parameter in dit.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(list(tiny_dit().parameters()))
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.slow
@torch.no_grad()
def test_plain_text_to_video_agrees_with_diffusers() -> None:
    """Wan as it was: one caption, one level, one shot."""
    diffusers = pytest.importorskip("diffusers", reason="needs the wan extra")
    config = CONFIG
    theirs = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        text_dim=config.text_dim,
        freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.num_layers,
        rope_max_seq_len=32,
    ).eval()
    ours = tiny_dit()
    names = dit_names_of_diffusers(config.num_layers)
    state = ours.state_dict()
    theirs.load_state_dict({name: state[names[name]] for name in names}, strict=True)
    x, text = latents(5, batch=2), captions(1, batch=2)
    positions = replace(target(5), frame_index=torch.arange(5)[None], shot_phase=torch.zeros(1, 5).long())
    sigma = torch.tensor([0.25, 0.957929])
    expected = theirs(x, timestep=sigma * 1000, encoder_hidden_states=text[:, 0], return_dict=False)[0]
    got = ours(x, sigma[:, None].expand(2, 5), text, positions)
    # diffusers embeds timesteps in float32: at 957.9 that is wrong by 3e-5.
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-4)


def test_calls_that_contradict_themselves_are_refused() -> None:
    dit, text = tiny_dit(), captions()
    x, sigma = latents(4), level(0.5, 4)
    cache = new_cache(dit)
    with pytest.raises(ValueError, match="takes no mask"):
        dit(x[:, :, :2], sigma[:, :2], text, chunk(0), mask=CausalMask.for_shot(CONFIG, GRID, 2), cache=cache)
    with pytest.raises(ValueError, match="keep levels in float32"):
        dit(x, sigma.to(torch.bfloat16), text, target(4))
    with pytest.raises(ValueError, match="needs a cache"):
        dit(x, sigma, text, target(4), write="local")
    with pytest.raises(ValueError, match="positions for"):
        dit(x, sigma, text, target(3))
    with pytest.raises(ValueError, match="a mask over"):
        dit(x, sigma, text, target(4), mask=MASK)
    with pytest.raises(ValueError, match="another token grid"):
        dit(x, sigma, text, rope_table(target(4), TokenGrid(2, 2), CONFIG))
    with pytest.raises(ValueError, match="a cache for batch 1"):
        dit(latents(2, batch=2), level(0.5, 2, 2), captions(batch=2), chunk(0), cache=cache)
    with pytest.raises(ValueError, match="multiples of 2"):
        dit(randn(1, 3, 4, 5, 6), sigma, text, target(4))


@torch.no_grad()
def test_a_pass_may_have_a_kernel_of_its_own_in_every_layer() -> None:
    dit, text, x = tiny_dit(), captions(), latents(NUM_FRAMES)
    seen: list[tuple[int, ...]] = []

    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        seen.append(tuple(keys.shape))
        return attend_all(queries, keys, values)

    own = dit(x, _levels(), text, _positions(), attention=attend)
    assert torch.equal(own, dit(x, _levels(), text, _positions()))
    shape = (1, NUM_FRAMES * GRID.num_tokens, CONFIG.num_heads, CONFIG.head_dim)
    assert seen == [shape] * CONFIG.num_layers
    with pytest.raises(ValueError, match="without a mask and a cache"):
        dit(x, _levels(), text, _positions(), mask=MASK, attention=attend)
