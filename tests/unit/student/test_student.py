from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from fustal.data.features import FeatureStore
from fustal.engine.average import update_average
from fustal.engine.videos import pad, padded_length, similar_lengths
from fustal.exceptions import InputError
from fustal.params import Params
from fustal.student import Student, StudentState, TrainingVideos, Truth, assign, detect_videos, points, train_student
from fustal.student.batches import label_weights, random_crop, snippet_labels
from fustal.student.blocks import DropPath, MaskedGroupNorm
from fustal.student.decoding import candidates, class_scores, decode, detect
from fustal.student.losses import diou_loss, mil_loss, offset_iou, student_loss
from fustal.student.network import Borders
from fustal.student.training import make_optimizer

SMALL = {
    "student_dim": 16,
    "student_mlp": 16,
    "student_levels": 3,
    "student_stem": 1,
    "student_bins": 4,
    "sgp_init_std": 0.1,
    "max_snippets": 64,
    "student_batch": 4,
}


def small_student(**changes):
    torch.manual_seed(0)
    return Student.from_params(Params(**(SMALL | changes)), in_dim=6, num_classes=2)


def truth_of(segments, labels, video_labels):
    """Labels that all count alike."""
    return Truth(segments, labels, [torch.ones(len(part)) for part in labels], video_labels)


def random_batch(*lengths):
    torch.manual_seed(1)
    return pad([torch.randn(length, 6) for length in lengths], 64)


# --- blocks and network ---


def test_full_size_has_16_million_parameters():
    params = Params(student_dim=512, student_mlp=768, student_levels=6, student_stem=2, student_bins=16)
    count = sum(p.numel() for p in Student.from_params(params, in_dim=2048, num_classes=20).parameters())
    assert round(count / 1e6, 1) == 16.0


@pytest.mark.parametrize("lengths", [(64, 33), (7, 1), (50, 64)])
def test_corrected_student_does_not_see_padding(lengths):
    model = small_student().eval()
    with torch.no_grad():
        [p.add_(0.1 * torch.randn_like(p)) for p in model.parameters()]  # biases differ from 0
    batch = random_batch(*lengths)
    found = detect(model, model(*batch), Params(**SMALL))
    for i, length in enumerate(lengths):
        size = -(-length // 4) * 4
        alone = model(batch[0][i : i + 1, :size], batch[1][i : i + 1, :size])
        assert_close(detect(model, alone, Params(**SMALL))[0], found[i], rtol=1e-4, atol=1e-4)


def test_published_student_sees_padding():
    model = small_student(recipe="published").eval()
    x, mask = random_batch(33)
    with_padding, without = (model(x[:, :size], mask[:, :size]).class_logits[0, :33] for size in (64, 36))
    assert (with_padding - without).abs().max() > 1e-5


def test_group_norm_without_padding_is_pytorchs():
    torch.manual_seed(0)
    norm, x = MaskedGroupNorm(16, 32), 3 + torch.randn(2, 9, 32)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    ours = norm(x, torch.ones(2, 9, 1, dtype=torch.bool))
    assert_close(ours, torch.nn.GroupNorm.forward(norm, x.mT).mT, rtol=1e-5, atol=1e-5)


def test_borders_where_they_are_wanted_are_those_of_everywhere():
    model, batch = small_student().eval(), random_batch(64, 33)
    output = model(*batch)
    everywhere = model.borders(output, *output.mask[..., 0].nonzero(as_tuple=True))
    video, point = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([3, 20, 0, 32, 64])  # two videos meet at 20 and 0
    some = model.borders(output, video, point)
    for label in (0, 1):
        of = output.lengths, video, point, torch.full((5,), label)
        assert_close(decode(some, *of), decode(everywhere, *of), rtol=1e-4, atol=1e-4)
    assert (some.offsets != 0).any(dim=2).sum() < (everywhere.offsets != 0).any(dim=2).sum()


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
    assert [level.sum(dim=1).flatten().tolist() for level in output.mask.split(output.lengths, dim=1)] == [
        [64, 33],
        [32, 17],
        [16, 9],
    ]
    assert output.class_logits.shape == (2, 112, 2)
    assert not output.class_logits[1, 33:64].any()


def test_length_must_fit_the_pyramid():
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
    assert all(segments.isfinite().all() for segments, _, _ in detect(model, output, Params()))


# --- targets ---


def assign_naively(lengths, segments, labels, num_classes, radius):
    """Point by point, as docs/method.md section 4 says it."""
    classes, offsets, p = torch.zeros(sum(lengths), num_classes), torch.zeros(sum(lengths), 2), 0
    for level, length in enumerate(lengths):
        stride = 2**level
        low = 2 * stride if level else 0
        high = 4 * stride if level < len(lengths) - 1 else np.inf
        for t in range(0, length * stride, stride):
            fits = [
                (end - start, t - start, end - t, label)
                for (start, end), label in zip(segments.tolist(), labels.tolist(), strict=True)
                if start < t < end
                and abs(t - (start + end) / 2) < radius * stride
                and low <= max(t - start, end - t) <= high
            ]
            if fits:
                shortest = min(fits, key=lambda fit: fit[0])  # of equally short ones the first
                offsets[p] = torch.tensor(shortest[1:3]) / stride
                classes[p, [label for size, _, _, label in fits if size <= shortest[0] + 1e-3]] = 1
            p += 1
    return classes, offsets


QUARTERS = st.tuples(st.integers(0, 255), st.integers(1, 255), st.integers(0, 2))
"""Start and length of a segment in quarters of a snippet, which are exact numbers, and its label."""


@given(st.lists(QUARTERS, max_size=12), st.integers(1, 4), st.sampled_from([0.5, 1.0, 1.5, 4.0]))
def test_assign_agrees_with_the_definition(drawn, levels, radius):
    lengths = [64, 32, 16, 8][:levels]
    segments = torch.tensor([[start, start + length] for start, length, _ in drawn]).reshape(-1, 2) / 4
    labels = torch.tensor([label for *_, label in drawn], dtype=torch.long)
    classes, offsets, winner = assign(points(lengths), segments, labels, 3, radius)
    expected, expected_offsets = assign_naively(lengths, segments, labels, 3, radius)
    positive = expected.any(dim=1)
    assert_close(classes, expected)
    assert_close(offsets[positive], expected_offsets[positive], rtol=1e-4, atol=1e-4)
    assert classes[positive, labels[winner[positive]]].all()


def test_equally_short_segments_share_a_point():
    segments = torch.tensor([[2.0, 5.0], [2.0, 5.0], [0.0, 7.0]])
    classes, offsets, _ = assign(points([8]), segments, torch.tensor([2, 0, 1]), 3, 1.5)
    assert classes[3].tolist() == [1, 0, 1]
    assert offsets[3].tolist() == [1, 2]


def test_video_without_segments_is_background():
    classes, offsets, winner = assign(points([8, 4]), torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), 3, 1.5)
    assert classes.shape == (12, 3)
    assert offsets.shape == (12, 2)
    assert winner.shape == (12,)
    assert not classes.any()


# --- losses ---


def test_perfect_offsets_cost_nothing_and_degenerate_ones_are_finite():
    offsets = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    assert_close(offset_iou(offsets, offsets), torch.tensor([1.0, 0.0]))
    assert_close(diou_loss(offsets, offsets), torch.tensor([0.0, 1.0]))
    diou_loss(offsets, torch.zeros(2, 2)).sum().backward()
    assert offsets.grad.isfinite().all()


def test_mil_loss_of_a_padded_video():
    logits = torch.tensor([[[3.0, 1.0, -1.0, -1.0, 0, 0, 0, 0], [-2.0, -2.0, -2.0, -2.0, 0, 0, 0, 0]]])
    mask = (torch.arange(8) < 4)[None, None]
    label = torch.tensor([[1.0, 0.0]])
    bce = -torch.tensor([2.0, -2.0]).softmax(dim=0)[0].log()  # (3 + 1) / 2 and -2: n // 2 = 2 of the four valid ones
    assert_close(mil_loss(logits, mask, label, ratio=2), bce)
    padding = -torch.tensor([2.0, 0.0]).softmax(dim=0)[0].log()  # class 1: padding wins over -2
    assert_close(mil_loss(logits, mask, label, ratio=2, corrected=False), padding)


def test_published_mil_counts_the_whole_batch_and_stays_within_the_sequence():
    logits, mask = torch.randn(6, 3, 4), torch.ones(6, 1, 4, dtype=torch.bool)
    labels = torch.eye(3).repeat(2, 1)
    mean = logits.mean(dim=-1).softmax(dim=1)  # 24 // 5 = 4: all positions
    expected = torch.nn.functional.binary_cross_entropy(mean, labels)
    assert_close(mil_loss(logits, mask, labels, ratio=5, corrected=False), expected)
    highest = logits.amax(dim=-1).softmax(dim=1)  # max(1, 4 // 5) = 1
    assert_close(mil_loss(logits, mask, labels, ratio=5), torch.nn.functional.binary_cross_entropy(highest, labels))


def test_corrected_mil_ignores_padding():
    logits, label = torch.randn(1, 3, 20), torch.tensor([[0.0, 1.0, 1.0]])
    short = mil_loss(logits, torch.ones(1, 1, 20, dtype=torch.bool), label, 5)
    padded = mil_loss(torch.cat([logits, 100 + logits], -1), (torch.arange(40) < 20)[None, None], label, 5)
    assert_close(short, padded)


@pytest.mark.parametrize("recipe", ["published", "corrected"])
def test_loss_trains_every_weight_and_counts_positives(recipe):
    params = Params(**SMALL, recipe=recipe, mil_dropout=0.0)
    model, batch = small_student(recipe=recipe), random_batch(64, 33)
    segments = [torch.tensor([[5.0, 12.0], [20.0, 21.5]]), torch.zeros(0, 2)]
    truth = truth_of(segments, [torch.tensor([0, 1]), torch.zeros(0, dtype=torch.long)], torch.ones(2, 2))
    losses = student_loss(model, model(*batch), truth, params)
    losses["loss"].backward()
    assert_close(losses["loss"], losses["focal"] + losses["diou"] + losses["mil"])
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
    count = (assign(points([64, 32, 16]), truth.segments[0], truth.labels[0], 2, 1.5)[0]).any(dim=1).sum()
    assert_close(model.positives.item(), 90 + 0.1 * count.item())
    student_loss(model.eval(), model(*batch), truth, params)
    assert_close(model.positives.item(), 90 + 0.1 * count.item())


def test_loss_without_any_segment():
    model, batch = small_student(), random_batch(64, 10)
    nothing = [torch.zeros(0, 2)] * 2, [torch.zeros(0, dtype=torch.long)] * 2
    losses = student_loss(model, model(*batch), truth_of(*nothing, torch.zeros(2, 2)), Params(**SMALL))
    losses["loss"].backward()
    assert losses["diou"] == 0
    assert losses["loss"].isfinite()


def test_padding_has_no_positives():
    model, batch = small_student(), random_batch(64, 10)
    segments = [torch.zeros(0, 2), torch.tensor([[30.0, 36.0]])]
    labels = [torch.zeros(0, dtype=torch.long), torch.tensor([1])]
    truth = truth_of(segments, labels, torch.ones(2, 2))
    assert student_loss(model, model(*batch), truth, Params(**SMALL))["diou"] == 0


def test_weights_scale_what_a_label_counts():
    params, segments = Params(**SMALL, mil_weight=0.0), torch.tensor([[5.0, 12.0], [20.0, 26.0], [40.0, 47.0]])
    model, batch = small_student().eval(), random_batch(64)[0][:1]
    output = model(batch, torch.ones(1, 64, 1, dtype=torch.bool))

    def losses(kept, *weights):
        truth = Truth([segments[kept]], [torch.tensor([0, 1, 1])[kept]], [torch.tensor(weights)], torch.ones(1, 2))
        return student_loss(model, output, truth, params)

    assert_close(losses([0, 1, 2], 1.0, 0.0, 1.0)["diou"], losses([0, 2], 1.0, 1.0)["diou"])
    half, full = losses([1], 0.5), losses([1], 1.0)
    assert_close(half["diou"], full["diou"] / 2)
    assert half["focal"] < full["focal"]


def test_weight_is_the_confidence_over_the_best_of_class_and_video():
    scores, labels = torch.tensor([0.5, 1.0, 0.2, -3.0]), torch.tensor([0, 0, 1, 1])
    assert label_weights(scores, labels, Params(label_weights="equal")).tolist() == [1, 1, 1, 1]
    weights = label_weights(scores, labels, Params())
    assert_close(weights, torch.tensor([0.5, 1.0, 1.0, 0.0]), atol=1e-4, rtol=0)
    assert not len(label_weights(scores[:0], labels[:0], Params()))


def test_zero_depthwise_weights_never_learn():
    model = small_student(sgp_init_std=0.0)
    model(*random_batch(64)).class_logits.sum().backward()
    assert not model.stem[0].wide.weight.grad.any()
    assert not model.stem[0].context.bias.grad.any()


# --- decoding ---


LENGTHS = [8, 4, 2]


def decode_naively(said, lengths, level, video, t, label):
    start, end, offsets = (part.split(lengths, dim=1)[level][video] for part in said)
    bins, sides = offsets.shape[1] // 2 - 1, []
    for side, logits in enumerate([start, end]):
        values = []
        for j in range(bins + 1):
            neighbour = t + (j if side else -j)
            inside = 0 <= neighbour < len(logits)
            column = bins + 1 + j if side else bins - j
            values.append((logits[neighbour, label] if inside else 0.0) + offsets[t, column])
        sides.append(torch.tensor(values).softmax(dim=0) @ torch.arange(bins + 1.0))
    return torch.stack(sides)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 12), st.integers(0, 2**31), st.data())
def test_decode_agrees_with_the_definition(lengths, bins, seed, data):
    random, count = torch.Generator().manual_seed(seed), sum(lengths)
    said = Borders(*(3 * torch.randn(2, count, size, generator=random) for size in (2, 2, 2 * bins + 2)))
    asked = data.draw(st.lists(st.tuples(*(st.integers(0, n - 1) for n in (2, count, 2))), min_size=1, max_size=6))
    video, point, label = torch.tensor(asked).T.contiguous()
    grid = points(lengths)
    place = (grid.position / grid.stride).long()
    expected = [decode_naively(said, lengths, grid.level[p], v, int(place[p]), c) for v, p, c in asked]
    found = decode(said, lengths, video, point, label)
    assert_close(found, torch.stack(expected))
    assert (found >= 0).all()
    assert (found <= bins).all()


def test_candidates_scale_offsets_by_the_stride_and_honour_limits(answers):
    model = answers(LENGTHS)
    params = Params(pre_nms_topk=3, pre_nms_score=0.5, min_duration_snippets=0.0)
    grid = points(LENGTHS)
    for video, (segments, scores, labels) in enumerate(
        candidates(model, model.output, class_scores(model.output), params)
    ):
        assert len(scores) <= 9
        assert (scores > 0.5).all()
        assert len(set(zip(segments[:, 0].tolist(), labels.tolist(), strict=True))) == len(scores)
        place, label = divmod(int(model.output.class_logits[video, 12:].flatten().argmax()), 2)
        offsets = decode(model.said, LENGTHS, *(torch.tensor([i]) for i in (video, 12 + place, label)))[0] * 4
        expected = grid.position[12 + place] + torch.tensor([-1, 1]) * offsets
        assert (segments - expected).abs().amax(dim=1).min() < 1e-5


def test_nothing_to_detect(answers):
    model = answers([8])
    assert [len(part) for part in detect(model, model.output, Params(pre_nms_score=1.0))[0]] == [0, 0, 0]
    assert [len(part) for part in detect(model, model.output, Params(min_duration_snippets=99.0))[1]] == [0, 0, 0]
    masked = model.output._replace(mask=torch.zeros(2, 8, 1, dtype=torch.bool))
    assert [len(part) for part in detect(model, masked, Params())[0]] == [0, 0, 0]


# --- training sequences ---


@pytest.mark.parametrize("seed", range(20))
def test_crop_keeps_a_segment_and_the_limits(seed):
    params = Params(max_snippets=20, crop_min=0.5)
    segments = torch.tensor([[3.0, 7.0], [30.0, 34.0], [0.0, 100.0]])
    first, last, stays = random_crop(100, segments, params, torch.Generator().manual_seed(seed))
    assert 0 <= first < last <= 100
    assert last - first == 20
    assert stays.any()
    inside = segments.clamp(first, last).diff(dim=1)[:, 0]
    assert (stays == (inside >= segments.diff(dim=1)[:, 0] / 2)).all()


def test_crop_without_segments_or_room():
    first, last, stays = random_crop(1, torch.zeros(0, 2), Params(), torch.Generator())
    assert (first, last, len(stays)) == (0, 1, 0)
    assert not random_crop(64, torch.tensor([[0.0, 60.0]]), Params(max_snippets=16), torch.Generator())[2].any()


def test_crop_covers_its_range():
    random = torch.Generator().manual_seed(0)
    crops = [random_crop(100, torch.zeros(0, 2), Params(), random) for _ in range(300)]
    sizes = [last - first for first, last, _ in crops]
    assert (min(sizes), max(sizes)) == (90, 100)


def test_padding():
    x, mask = pad([torch.ones(3, 2), torch.ones(1, 2)], 4)
    assert x[..., 0].tolist() == mask[..., 0].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert padded_length(401, Params(recipe="published")) == 416


def test_snippet_labels(planted):
    dataset, store = planted
    videos = dataset.split("train")
    targets = snippet_labels(dataset.segments[dataset.segments.video != "train3"], videos, store)
    assert list(targets) == videos
    assert_close(targets["train1"], (torch.tensor([[12.5, 22.5]]), torch.tensor([1]), torch.ones(1)))
    assert [part.shape for part in targets["train3"]] == [(0, 2), (0,), (0,)]
    with pytest.raises(InputError, match="video 'train1': label 'b' is no class"):
        snippet_labels(dataset.segments, videos, FeatureStore(replace(dataset, classes=["a"]), "student"))


@pytest.mark.parametrize("recipe", ["published", "corrected"])
def test_batches(planted, recipe):
    dataset, store = planted
    data = TrainingVideos(Params(**SMALL, recipe=recipe), store, dataset.segments, torch.device("cpu"))
    assert data.steps_per_epoch == 2
    seen = []
    for step in range(2):
        batch = data.batch(step)
        assert batch.x.shape[::2] == (4, 6)
        longest = int(batch.mask.sum(dim=1).max())
        assert batch.x.shape[1] == (64 if recipe == "published" else -(-longest // 4) * 4)
        assert all(len(part) == 1 for part in batch.truth.segments)
        assert_close(batch.truth.video_labels.argmax(dim=1), torch.cat(batch.truth.labels))
        for x, (start, end), label in zip(
            batch.x, torch.cat(batch.truth.segments), torch.cat(batch.truth.labels), strict=True
        ):
            assert x[int(start + 0.5) : int(end + 0.5), label].min() > 1.5
        seen += batch.mask.sum(dim=1).flatten().tolist()
    assert len(seen) == 8


def test_weight_decay_spares_biases_norms_and_scales():
    model = small_student()
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, spared = (
        {names[id(p)] for p in group["params"]} for group in make_optimizer(model, Params()).param_groups
    )
    assert decayed | spared == set(names.values())
    assert all(name.endswith(".weight") and "norm" not in name for name in decayed)
    assert all(name.endswith(("bias", "scale", "scales")) or "norm" in name for name in spared)


def test_average_copies_buffers():
    model = small_student()
    ema = small_student()
    model.positives.fill_(7)
    update_average(ema, model, 0.9)
    assert ema.positives == 7


# --- learning and localising ---


def test_student_learns_to_localise(planted, tmp_path):
    dataset, store = planted
    params = Params(**SMALL, student_epochs=40, student_lr=5e-3, ema_decay=0.9, device="cpu")
    state = train_student(params, store, dataset.segments, tmp_path / "run")
    found = detect_videos(state.ema, store, dataset.split("test"), params)
    assert list(found.columns) == ["video", "label", "score", "start", "end"]
    assert (found.start >= 0).all()
    assert (found.end <= found.video.map(store.duration)).all()
    best = found.groupby("video").first()
    truth = dataset.segments.set_index("video").loc[best.index]
    assert (best.label == truth.label).all()
    assert (best[["start", "end"]] - truth[["start", "end"]]).abs().to_numpy().max() < 1.0
    restored = StudentState.load(tmp_path / "run", params, store)
    assert_close(restored.student.state_dict(), state.student.state_dict())
    assert_close(restored.ema.state_dict(), state.ema.state_dict())
    assert len(restored.optimizer.state) == len(list(state.student.parameters()))


def test_training_is_deterministic_and_survives_missing_labels(planted, tmp_path):
    dataset, store = planted
    params = Params(**SMALL, student_epochs=1, device="cpu")
    runs = [train_student(params, store, dataset.segments[:3], tmp_path / name).student for name in "ab"]
    assert_close(runs[0].state_dict(), runs[1].state_dict(), rtol=0, atol=0)
    train_student(params, store, dataset.segments[:0], tmp_path / "c")


@pytest.mark.parametrize("recipe", ["published", "corrected"])
def test_localising_does_not_depend_on_the_other_videos(planted, recipe):
    _, store = planted
    model, params = small_student(recipe=recipe), Params(**SMALL, recipe=recipe)
    together = detect_videos(model, store, ["test0", "train0", "train1"], params)
    assert list(together.video.unique()) == ["test0", "train0", "train1"]
    for video, found in together.groupby("video"):
        alone = detect_videos(model, store, [video], params)
        pd.testing.assert_frame_equal(found.reset_index(drop=True), alone, rtol=1e-4)
    assert detect_videos(model, store, [], params).empty


def test_similar_lengths_share_batches():
    lengths = {str(i): length for i, length in enumerate([9000, 64, 9000, 64, 20_000, 128])}
    assert similar_lengths(lengths, 18_432, exactly=False) == [["1", "3", "5"], ["0", "2"], ["4"]]
    assert similar_lengths(lengths, 18_432, exactly=True) == [["1", "3"], ["5"], ["0", "2"], ["4"]]
    assert similar_lengths({}, 18_432, exactly=True) == []


def test_weights_must_fit(planted, tmp_path):
    with pytest.raises(InputError, match="no such file of weights"):
        StudentState.load(tmp_path, Params(**SMALL), planted[1])
