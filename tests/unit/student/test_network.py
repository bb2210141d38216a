"""The network of the student: blocks, pyramid and heads."""

import math

import pytest
import torch
from torch.testing import assert_close

from fustal.params import Params
from fustal.student import Student
from fustal.student.blocks import DropPath, MaskedGroupNorm
from fustal.student.decoding import decode, detect
from tests.networks import SMALL, random_batch, small_student


def test_full_size_has_16_million_parameters():
    params = Params(student_dim=512, student_mlp=768, student_levels=6, student_stem=2, student_bins=16)
    student = Student.from_params(params, in_dim=2048, num_classes=20)
    count = sum(p.numel() for p in student.parameters())
    assert round(count / 1e6, 1) == 16.0


@pytest.mark.parametrize("lengths", [(64, 33), (7, 1), (50, 64)])
def test_padding_does_not_change_the_corrected_student(lengths):
    model = small_student().eval()
    with torch.no_grad():
        for weight in model.parameters():  # biases differ from 0
            weight.add_(0.1 * torch.randn_like(weight))
    x, mask = random_batch(*lengths)
    found = detect(model, model(x, mask), Params(**SMALL))
    for i, length in enumerate(lengths):
        size = -(-length // 4) * 4
        alone = model(x[i : i + 1, :size], mask[i : i + 1, :size])
        assert_close(detect(model, alone, Params(**SMALL))[0], found[i], rtol=1e-4, atol=1e-4)


def test_padding_changes_the_published_student():
    model = small_student(recipe="published").eval()
    x, mask = random_batch(33)
    with_padding = model(x, mask).class_logits[0, :33]
    without = model(x[:, :36], mask[:, :36]).class_logits[0, :33]
    assert (with_padding - without).abs().max() > 1e-5


def test_group_norm_without_padding_is_that_of_pytorch():
    torch.manual_seed(0)
    norm = MaskedGroupNorm(16, 32)
    x = 3 + torch.randn(2, 9, 32)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    ours = norm(x, torch.ones(2, 9, 1, dtype=torch.bool))
    assert_close(ours, torch.nn.GroupNorm.forward(norm, x.mT).mT, rtol=1e-5, atol=1e-5)


def test_borders_at_some_points_equal_those_computed_everywhere():
    model = small_student().eval()
    output = model(*random_batch(64, 33))
    everywhere = model.borders(output, *output.mask[..., 0].nonzero(as_tuple=True))
    video = torch.tensor([0, 0, 1, 1, 1])
    point = torch.tensor([3, 20, 0, 32, 64])  # 20 and 0 follow each other in the list, in different videos
    some = model.borders(output, video, point)
    for label in (0, 1):
        labels = torch.full((5,), label)
        found = decode(some, output.lengths, video, point, labels)
        expected = decode(everywhere, output.lengths, video, point, labels)
        assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (some.offsets != 0).any(dim=2).sum() < (everywhere.offsets != 0).any(dim=2).sum()


@pytest.mark.parametrize("recipe", ["published", "corrected"])
def test_only_the_classes_have_biases_that_differ_from_0_at_the_start(recipe):
    for name, weight in small_student(recipe=recipe).named_parameters():
        if name.endswith("bias"):
            expected = -math.log(0.99 / 0.01) if name.startswith(("class", "start", "end")) and "out" in name else 0
            assert_close(weight, torch.full_like(weight, expected), msg=name)


def test_drop_path_drops_whole_videos_and_keeps_the_mean():
    layer = DropPath(3, 0.5)
    x = torch.ones(2000, 2, 3)
    assert_close(layer.eval()(x), 1e-4 * x)
    torch.manual_seed(0)
    rows = layer.train()(x).flatten(1)
    assert_close(rows.amin(dim=1), rows.amax(dim=1))
    assert set((rows[:, 0] * 1e4).round().tolist()) == {0.0, 2.0}
    assert_close(rows.mean().item(), 1e-4, rtol=0.1, atol=0)


def test_output_has_every_point_of_every_level():
    output = small_student()(*random_batch(64, 33))
    assert output.lengths == [64, 32, 16]
    levels = output.mask.split(output.lengths, dim=1)
    assert [level.sum(dim=1).flatten().tolist() for level in levels] == [[64, 33], [32, 17], [16, 9]]
    assert output.class_logits.shape == (2, 112, 2)
    assert not output.class_logits[1, 33:64].any()


def test_the_length_must_be_a_multiple_for_the_pyramid():
    with pytest.raises(ValueError, match="63 snippets are not a multiple of 4"):
        small_student()(torch.zeros(1, 63, 6), torch.ones(1, 63, 1, dtype=torch.bool))


def test_boundary_heads_do_not_train_the_pyramid():
    model = small_student()
    borders = model.borders(model(*random_batch(64)), torch.tensor([0]), torch.tensor([5]))
    (borders.start_logits.sum() + borders.end_logits.sum()).backward()
    assert model.embedding[0].conv.weight.grad is None
    assert model.start_head.layers[0].conv.weight.grad.any()


def test_one_level():
    model = small_student(student_levels=1)
    output = model(*random_batch(64, 5))
    assert output.lengths == [64]
    for segments, _, _ in detect(model, output, Params()):
        assert segments.isfinite().all()


def test_depthwise_weights_of_zero_have_no_gradient():
    model = small_student(sgp_init_std=0.0)
    model(*random_batch(64)).class_logits.sum().backward()
    assert not model.stem[0].wide.weight.grad.any()
    assert not model.stem[0].context.bias.grad.any()
