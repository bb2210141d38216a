import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from fustal.exceptions import InputError
from fustal.params import Params
from fustal.student import (
    Borders,
    Student,
    TrainingVideos,
    candidates,
    class_scores,
    decode,
    detect,
    load_student,
    localize,
    points,
    train_student,
)
from fustal.student.batches import pad, padded_length, random_crop, similar_lengths, snippet_targets
from fustal.student.training import make_optimizer, update_average

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


def random_batch(*lengths):
    torch.manual_seed(1)
    return pad([torch.randn(length, 6) for length in lengths], 64)


# --- blocks and network ---


def test_full_size_has_16_million_parameters():
    params = Params(student_dim=512, student_mlp=768, student_levels=6, student_stem=2, student_bins=16)
    count = sum(p.numel() for p in Student.from_params(params, in_dim=2048, num_classes=20).parameters())
    assert round(count / 1e6, 1) == 16.0


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


def test_snippet_targets(planted):
    dataset, store = planted
    videos = dataset.split("train")
    targets = snippet_targets(dataset.segments[dataset.segments.video != "train3"], videos, ["a", "b"], store)
    assert list(targets) == videos
    assert_close(targets["train1"], (torch.tensor([[12.5, 22.5]]), torch.tensor([1]), torch.ones(1)))
    assert [part.shape for part in targets["train3"]] == [(0, 2), (0,), (0,)]
    with pytest.raises(InputError, match="video 'train1': label 'b' is no class"):
        snippet_targets(dataset.segments, videos, ["a"], store)


@pytest.mark.parametrize("recipe", ["published", "corrected"])
def test_batches(planted, recipe):
    dataset, store = planted
    data = TrainingVideos(Params(**SMALL, recipe=recipe), dataset, store, dataset.segments, torch.device("cpu"))
    assert data.steps_per_epoch == 2
    seen = []
    for step in range(2):
        batch = data.batch(step)
        assert batch.x.shape[::2] == (4, 6)
        longest = int(batch.mask.sum(dim=1).max())
        assert batch.x.shape[1] == (64 if recipe == "published" else -(-longest // 4) * 4)
        assert all(len(part) == 1 for part in batch.segments)
        assert_close(batch.video_labels.argmax(dim=1), torch.cat(batch.labels))
        for x, (start, end), label in zip(batch.x, torch.cat(batch.segments), torch.cat(batch.labels), strict=True):
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
    student, ema = train_student(params, dataset, store, dataset.segments, tmp_path / "run")
    found = localize(ema, dataset, store, dataset.split("test"), params)
    assert list(found.columns) == ["video", "label", "score", "start", "end"]
    assert (found.start >= 0).all()
    assert (found.end <= found.video.map(store.duration)).all()
    best = found.groupby("video").first()
    truth = dataset.segments.set_index("video").loc[best.index]
    assert (best.label == truth.label).all()
    assert (best[["start", "end"]] - truth[["start", "end"]]).abs().to_numpy().max() < 1.0
    restored, restored_ema, optimizer = load_student(tmp_path / "run", params, 6, 2)
    assert_close(restored.state_dict(), student.state_dict())
    assert_close(restored_ema.state_dict(), ema.state_dict())
    assert len(optimizer.state) == len(list(student.parameters()))


def test_training_is_deterministic_and_survives_missing_labels(planted, tmp_path):
    dataset, store = planted
    params = Params(**SMALL, student_epochs=1, device="cpu")
    runs = [train_student(params, dataset, store, dataset.segments[:3], tmp_path / name)[0] for name in "ab"]
    assert_close(runs[0].state_dict(), runs[1].state_dict(), rtol=0, atol=0)
    train_student(params, dataset, store, dataset.segments[:0], tmp_path / "c")


@pytest.mark.parametrize("recipe", ["published", "corrected"])
def test_localising_does_not_depend_on_the_other_videos(planted, recipe):
    dataset, store = planted
    model, params = small_student(recipe=recipe), Params(**SMALL, recipe=recipe)
    together = localize(model, dataset, store, ["test0", "train0", "train1"], params)
    assert list(together.video.unique()) == ["test0", "train0", "train1"]
    for video, found in together.groupby("video"):
        alone = localize(model, dataset, store, [video], params)
        pd.testing.assert_frame_equal(found.reset_index(drop=True), alone, rtol=1e-4)
    assert localize(model, dataset, store, [], params).empty


def test_similar_lengths_share_batches():
    lengths = {str(i): length for i, length in enumerate([9000, 64, 9000, 64, 20_000, 128])}
    assert similar_lengths(lengths, 18_432, exactly=False) == [["1", "3", "5"], ["0", "2"], ["4"]]
    assert similar_lengths(lengths, 18_432, exactly=True) == [["1", "3"], ["5"], ["0", "2"], ["4"]]
    assert similar_lengths({}, 18_432, exactly=True) == []


def test_weights_must_fit(planted, tmp_path):
    with pytest.raises(InputError, match="no such file of weights"):
        load_student(tmp_path, Params(**SMALL), 6, 2)
