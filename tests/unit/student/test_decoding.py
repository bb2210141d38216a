"""Trident decoding and the choice of candidates."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from fustal.params import Params
from fustal.student import points
from fustal.student.decoding import candidates, class_scores, decode, detect
from fustal.student.network import Borders
from tests.networks import FixedStudent

LENGTHS = [8, 4, 2]


def decode_naively(borders, lengths, level, video, t, label):
    """Distances to start and end at one point, in strides: docs/method.md section 4, one bin after the other."""
    offsets = borders.offsets.split(lengths, dim=1)[level][video]
    bins = offsets.shape[1] // 2 - 1
    distances = []
    for side, logits in enumerate([borders.start_logits, borders.end_logits]):
        logits = logits.split(lengths, dim=1)[level][video]
        values = []
        for j in range(bins + 1):
            neighbour = t + j if side else t - j
            column = bins + 1 + j if side else bins - j
            inside = 0 <= neighbour < len(logits)
            logit = logits[neighbour, label] if inside else 0.0
            values.append(logit + offsets[t, column])
        distances.append(torch.tensor(values).softmax(dim=0) @ torch.arange(bins + 1.0))
    return torch.stack(distances)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 12), st.integers(0, 2**31), st.data())
def test_decode_agrees_with_the_definition(lengths, bins, seed, data):
    random = torch.Generator().manual_seed(seed)
    count = sum(lengths)
    start_logits = 3 * torch.randn(2, count, 2, generator=random)
    end_logits = 3 * torch.randn(2, count, 2, generator=random)
    offsets = 3 * torch.randn(2, count, 2 * bins + 2, generator=random)
    borders = Borders(start_logits, end_logits, offsets)
    place_of_one = st.tuples(st.integers(0, 1), st.integers(0, count - 1), st.integers(0, 1))
    places = data.draw(st.lists(place_of_one, min_size=1, max_size=6))
    grid = points(lengths)
    expected = []
    for video, point, label in places:
        t = int(grid.position[point] / grid.stride[point])
        expected.append(decode_naively(borders, lengths, grid.level[point], video, t, label))
    videos, chosen, labels = torch.tensor(places).T.contiguous()
    found = decode(borders, lengths, videos, chosen, labels)
    assert_close(found, torch.stack(expected))
    assert (found >= 0).all()
    assert (found <= bins).all()


def test_candidates_scale_offsets_by_the_stride_and_keep_the_limits():
    model = FixedStudent(LENGTHS)
    params = Params(pre_nms_topk=3, pre_nms_score=0.5, min_duration_snippets=0.0)
    grid = points(LENGTHS)
    found = candidates(model, model.output, class_scores(model.output), params)
    for video, (segments, scores, labels) in enumerate(found):
        assert len(scores) <= 9
        assert (scores > 0.5).all()
        assert len(set(zip(segments[:, 0].tolist(), labels.tolist(), strict=True))) == len(scores)
        # The best point of the last level, whose stride is 4, is among the candidates.
        place, label = divmod(int(model.output.class_logits[video, 12:].flatten().argmax()), 2)
        best = torch.tensor([video]), torch.tensor([12 + place]), torch.tensor([label])
        offsets = decode(model.fixed_borders, LENGTHS, *best)[0] * 4
        expected = grid.position[12 + place] + torch.tensor([-1, 1]) * offsets
        assert (segments - expected).abs().amax(dim=1).min() < 1e-5


def test_outputs_without_detections():
    model = FixedStudent([8])
    assert [len(part) for part in detect(model, model.output, Params(pre_nms_score=1.0))[0]] == [0, 0, 0]
    assert [len(part) for part in detect(model, model.output, Params(min_duration_snippets=99.0))[1]] == [0, 0, 0]
    masked = model.output._replace(mask=torch.zeros(2, 8, 1, dtype=torch.bool))
    assert [len(part) for part in detect(model, masked, Params())[0]] == [0, 0, 0]
