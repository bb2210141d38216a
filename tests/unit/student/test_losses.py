"""Losses of the student: cases made by hand, degenerate ones, and the gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fustal.params import Params
from fustal.student import assign, points
from fustal.student.losses import diou_loss, drop_logits, iou_weight, mil_loss, offset_iou, student_loss
from fustal.student.network import Borders
from tests.networks import PUBLISHED, SMALL, FixedStudent, random_batch, small_student, truth_of

SOFTMAX = Params(video_score="softmax")
SIGMOID = Params(video_score="sigmoid")
FIFTHS = torch.full((1, 3), 5)


def test_perfect_offsets_have_no_loss_and_degenerate_ones_a_finite_loss():
    offsets = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    assert_close(offset_iou(offsets, offsets), torch.tensor([1.0, 0.0]))
    assert_close(diou_loss(offsets, offsets), torch.tensor([0.0, 1.0]))
    diou_loss(offsets, torch.zeros(2, 2)).sum().backward()
    assert offsets.grad.isfinite().all()


def test_mil_loss_of_a_padded_video():
    logits = torch.tensor([[[3.0, 1.0, -1.0, -1.0, 0, 0, 0, 0], [-2.0, -2.0, -2.0, -2.0, 0, 0, 0, 0]]])
    mask = (torch.arange(8) < 4)[None, None]
    label = torch.tensor([[1.0, 0.0]])
    # Top 4 // 2 = 2 of the four valid logits: (3 + 1) / 2 for class 0 and -2 for class 1.
    corrected = -torch.tensor([2.0, -2.0]).softmax(dim=0)[0].log()
    halves = torch.full((1, 2), 2)
    assert_close(mil_loss(logits, mask, label, halves, SOFTMAX), corrected)
    # Published: padding takes part, and its logits of 0 are the highest of class 1.
    published = -torch.tensor([2.0, 0.0]).softmax(dim=0)[0].log()
    assert_close(mil_loss(logits, mask, label, halves, Params(**PUBLISHED)), published)


def test_published_mil_counts_the_whole_batch_and_stays_within_the_sequence():
    logits = torch.randn(6, 3, 4)
    mask = torch.ones(6, 1, 4, dtype=torch.bool)
    labels = torch.eye(3).repeat(2, 1)
    mean = logits.mean(dim=-1).softmax(dim=1)  # 24 // 5 = 4: all positions
    expected = F.binary_cross_entropy(mean, labels)
    assert_close(mil_loss(logits, mask, labels, FIFTHS, Params(**PUBLISHED)), expected)
    highest = logits.amax(dim=-1).softmax(dim=1)  # max(1, 4 // 5) = 1
    assert_close(mil_loss(logits, mask, labels, FIFTHS, SOFTMAX), F.binary_cross_entropy(highest, labels))


@pytest.mark.parametrize("params", [SOFTMAX, SIGMOID], ids=["softmax", "sigmoid"])
def test_corrected_mil_ignores_padding(params):
    logits = torch.randn(1, 3, 20)
    label = torch.tensor([[0.0, 1.0, 1.0]])
    without = mil_loss(logits, torch.ones(1, 1, 20, dtype=torch.bool), label, FIFTHS, params)
    mask = (torch.arange(40) < 20)[None, None]
    padded = mil_loss(torch.cat([logits, 100 + logits], -1), mask, label, FIFTHS, params)
    assert_close(padded, without)


@pytest.mark.parametrize("recipe", ["published", "corrected"])
def test_loss_trains_every_weight_and_counts_positives(recipe):
    params = Params(**SMALL, recipe=recipe, mil_dropout=0.0)
    model = small_student(recipe=recipe)
    batch = random_batch(64, 33)
    segments = [torch.tensor([[5.0, 12.0], [20.0, 21.5]]), torch.zeros(0, 2)]
    truth = truth_of(segments, [torch.tensor([0, 1]), torch.zeros(0, dtype=torch.long)], torch.ones(2, 2))
    losses = student_loss(model, model(*batch), truth, params)
    losses["loss"].backward()
    assert_close(losses["loss"], losses["focal"] + losses["diou"] + losses["mil"])
    for weight in model.parameters():
        assert weight.grad is not None
        assert weight.grad.isfinite().all()
        assert weight.grad.any()
    classes, _, _ = assign(points([64, 32, 16]), truth.segments[0], truth.labels[0], 2, 1.5)
    positives = 90 + 0.1 * classes.any(dim=1).sum().item()  # a moving average with decay 0.9, from 100 on
    assert_close(model.positives.item(), positives)
    student_loss(model.eval(), model(*batch), truth, params)
    assert_close(model.positives.item(), positives)


def gradients_of_focal(recipe, borders=None):
    """The gradients of the focal loss with respect to start logits, end logits and offset bins, of one video."""
    model = FixedStudent([16], batch=1)
    model.positives = torch.tensor(10.0)
    if borders:
        model.fixed_borders = borders
    for values in model.fixed_borders:
        values.requires_grad_()
    truth = truth_of([torch.tensor([[3.0, 7.0]])], [torch.tensor([1])], torch.ones(1, 2))
    losses = student_loss(model.eval(), model.output, truth, SOFTMAX.model_copy(update={"recipe": recipe}))
    return torch.autograd.grad(losses["focal"], model.fixed_borders, allow_unused=True)


def test_only_the_published_focal_loss_trains_the_borders():
    assert all(gradient.any() for gradient in gradients_of_focal("published"))
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradients_of_focal("corrected")


def test_a_segment_of_no_length_has_no_weight_and_a_finite_gradient():
    overlap = torch.tensor([1.0, 0.5, 1e-30, 0.0], requires_grad=True)
    weight = iou_weight(overlap)
    assert_close(weight, torch.tensor([1.0, 0.5**0.2, 1e-6, 0.0]))
    (gradient,) = torch.autograd.grad(weight.sum(), overlap)
    assert_close(gradient, torch.tensor([0.2, 0.2 * 0.5**-0.8, 2e23, 0.0]))
    # Bin 0 is certain: the decoded offsets are exactly 0, and so is the IoU.
    offsets = torch.zeros(1, 16, 8)
    offsets[..., 3:5] = 1e4
    logits = torch.zeros(1, 16, 2)
    for gradient in gradients_of_focal("published", Borders(logits, logits.clone(), offsets)):
        assert not gradient.any(), "neither NaN nor anything else"


def test_loss_without_any_segment():
    model = small_student()
    segments = [torch.zeros(0, 2)] * 2
    labels = [torch.zeros(0, dtype=torch.long)] * 2
    output = model(*random_batch(64, 10))
    losses = student_loss(model, output, truth_of(segments, labels, torch.zeros(2, 2)), Params(**SMALL))
    losses["loss"].backward()
    assert losses["diou"] == 0
    assert losses["loss"].isfinite()


def test_padding_has_no_positives():
    model = small_student()
    batch = random_batch(64, 10)
    segments = [torch.zeros(0, 2), torch.tensor([[30.0, 36.0]])]
    labels = [torch.zeros(0, dtype=torch.long), torch.tensor([1])]
    truth = truth_of(segments, labels, torch.ones(2, 2))
    assert student_loss(model, model(*batch), truth, Params(**SMALL))["diou"] == 0


def test_the_loss_of_a_label_is_multiplied_by_its_weight():
    params = Params(**SMALL, mil_weight=0.0)
    segments = torch.tensor([[5.0, 12.0], [20.0, 26.0], [40.0, 47.0]])
    labels = torch.tensor([0, 1, 1])
    model = small_student().eval()
    output = model(*random_batch(64))

    def losses(kept, *weights):
        truth = truth_of([segments[kept]], [labels[kept]], torch.ones(1, 2))._replace(weights=[torch.tensor(weights)])
        return student_loss(model, output, truth, params)

    assert_close(losses([0, 1, 2], 1.0, 0.0, 1.0)["diou"], losses([0, 2], 1.0, 1.0)["diou"])
    half = losses([1], 0.5)
    full = losses([1], 1.0)
    assert_close(half["diou"], full["diou"] / 2)
    assert half["focal"] < full["focal"]


def test_sigmoid_mil_by_hand():
    logits = torch.tensor([[[2.0, 0.0, -1.0, -9.0], [1.0, -1.0, -2.0, 3.0]]])
    mask = torch.tensor([[[True, True, True, False]]])
    ratios = torch.tensor([[1, 3], [3, 3]])
    high = torch.tensor([2.0, 0.0, -1.0]).sigmoid()
    rare = torch.tensor(1.0).sigmoid()
    terms = [high.mean().log(), (1 - rare).log(), high[0].log(), (1 - rare).log()]
    found = mil_loss(logits, mask, torch.tensor([[1.0, 0.0]]), ratios, SIGMOID)
    assert_close(found, -torch.stack(terms).mean())


@pytest.mark.parametrize("params", [SOFTMAX, SIGMOID], ids=["softmax", "sigmoid"])
def test_a_class_whose_positions_are_all_dropped_uses_all_of_them(params):
    params = params.model_copy(update={"mil_dropout": 0.999})
    output = FixedStudent([6]).output
    torch.manual_seed(0)
    logits, mask = drop_logits(output, params, training=True)
    assert mask.all(), "all of both classes were dropped"
    loss = mil_loss(logits, mask, torch.eye(2), torch.full((1, 2), 5), params)
    undropped = mil_loss(*drop_logits(output, params, training=False), torch.eye(2), torch.full((1, 2), 5), params)
    assert_close(loss, undropped)
    rare = params.model_copy(update={"mil_dropout": 0.7})
    seen = set()
    for _ in range(200):
        _, mask = drop_logits(output, rare, training=True)
        seen |= set(mask.sum(dim=2).flatten().tolist())
    assert seen == {1, 2, 3, 4, 5, 6}, "never 0"
