"""Swin, single and composite: against torchvision's, and on maps of any size."""

import pytest
import torch
from torchvision.models.swin_transformer import PatchMerging, shifted_window_attention

from maskworks.published.mmdetection import pixels_before_channels
from refinemask_psg.swin import WINDOW, CompositeSwin, Swin, WindowAttention, shift_mask


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("size", [(14, 14), (15, 22), (9, 30)])
def test_attention_is_torchvisions_where_the_map_is_larger_than_a_window(shift, size):
    torch.manual_seed(0)
    layer, features = WindowAttention(24, 3, shift), torch.randn(2, *size, 24)
    bias = layer.relative_position_bias_table[layer.relative_position_index].permute(2, 0, 1)[None]
    expected = shifted_window_attention(
        features,
        layer.qkv.weight,
        layer.proj.weight,
        bias,
        [WINDOW, WINDOW],
        layer.heads,
        [shift, shift],
        qkv_bias=layer.qkv.bias,
        proj_bias=layer.proj.bias,
    )
    torch.testing.assert_close(layer(features), expected)


def test_windows_shift_also_where_the_map_is_no_larger_than_one():
    """As Microsoft's does: within the one window, the shift parts the map in four."""
    mask = shift_mask(7, 7, 3, torch.device("cpu"))
    together = (mask[0] == 0).sum(dim=1)
    assert sorted(set(together.tolist())) == [9, 12, 16]  # 3 x 3, 3 x 4 and 4 x 4 pixels


def test_mmdetections_merging_is_rearranged():
    """MMDetection unfolds: for each channel the pixels (0, 0), (0, 1), (1, 0), (1, 1)."""
    torch.manual_seed(0)
    features, weight = torch.randn(1, 4, 4, 6), torch.randn(12, 24)
    unfolded = torch.nn.functional.unfold(features.permute(0, 3, 1, 2), 2, stride=2)  # [1, 24, 4]
    expected = (weight @ unfolded)[0].T.reshape(2, 2, 12)
    layer = PatchMerging(6)
    with torch.no_grad():
        layer.reduction.weight.copy_(pixels_before_channels(weight))
        layer.norm = torch.nn.Identity()  # type: ignore[assignment]
        torch.testing.assert_close(layer(features)[0], expected)


@pytest.fixture(scope="module")
def composite() -> CompositeSwin:
    torch.manual_seed(0)
    return CompositeSwin(0.0, checkpoint_blocks=False, absolute_positions=False).eval()


@torch.no_grad()
def test_features_have_the_strides_sizes_for_any_image(composite):
    assisting, lead = composite(torch.randn(1, 3, 50, 69))
    expected = [(13, 18), (7, 9), (4, 5), (2, 3)]
    assert [tuple(each.shape[2:]) for each in assisting] == [tuple(each.shape[2:]) for each in lead] == expected
    assert [each.shape[1] for each in lead] == composite.channels == [96, 192, 384, 768]


@torch.no_grad()
def test_at_first_only_equal_stages_are_connected(composite):
    """The other connections start at zero: the lead's input of a stage is its own plus the assisting output."""
    images = torch.randn(1, 3, 32, 32)
    assisting, lead = composite(images)
    start = composite.assisting.embed(images) + assisting[0].permute(0, 2, 3, 1)
    torch.testing.assert_close(composite.lead.stage(0, start)[0], lead[0])
    with_more = CompositeSwin(0.0, checkpoint_blocks=False, absolute_positions=False).eval()
    with_more.load_state_dict(composite.state_dict())
    torch.nn.init.normal_(with_more.connections[0][3].weight)
    assert not torch.allclose(with_more(images)[1][0], lead[0])


def test_checkpointing_gives_the_same_gradients():
    torch.manual_seed(0)
    plain = Swin(0.0, checkpoint_blocks=False, embeds=True, absolute_positions=True)
    saving = Swin(0.0, checkpoint_blocks=True, embeds=True, absolute_positions=True)
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 32, 40)
    for model in (plain, saving):
        sum(each.square().mean() for each in model(images)[0]).backward()
    torch.testing.assert_close(
        saving.layers[0].blocks[1].attn.qkv.weight.grad, plain.layers[0].blocks[1].attn.qkv.weight.grad
    )
    assert plain.absolute_pos_embed.grad.abs().sum() > 0


def test_drop_path_leaves_out_deeper_blocks_more_often():
    model = Swin(0.2, checkpoint_blocks=False, embeds=True, absolute_positions=False)
    rates = [block.drop_path.p for stage in model.layers for block in stage.blocks]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.2)
    assert rates == sorted(rates)


def test_absolute_positions_start_small_and_not_alike():
    """As wangqixun/psg's, which adds them to a detector that was trained without: normally distributed, 0.02."""
    positions = Swin(0.0, checkpoint_blocks=False, embeds=True, absolute_positions=True).absolute_pos_embed
    assert positions.std().item() == pytest.approx(0.02, rel=0.02)
    assert abs(positions.mean().item()) < 1e-3
