"""The student against the released implementation (`recipe: published`)."""

import re

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from fustal.data.features import VideoGrid
from fustal.engine.videos import pad
from fustal.params import Params
from fustal.student import Student, assign, points
from fustal.student.blocks import SGPBlock
from fustal.student.decoding import detect
from fustal.student.losses import diou_loss, focal_loss, offset_iou, student_loss
from tests.networks import PUBLISHED, truth_of

BLOCK_NAMES = {
    r"\bgn\.": "group_norm.",
    r"\bln\.": "norm.",
    r"\bpsi\.": "gate.",
    r"\bconvw\.": "local.",
    r"\bconvkw\.": "wide.",
    r"\bglobal_fc\.": "context.",
    r"\bfc\.": "instant.",
}
STUDENT_NAMES = {
    r"backbone\.embd\.(\d+)": r"embedding.\1",
    r"backbone\.embd_norm\.(\d+)": r"embedding.\1.norm",
    r"backbone\.": "",
    r"neck\.fpn_norms": "norms",
    r"_head\.(cls_head|offset_head)\.conv": "_head.out",
    r"_head\.head\.(\d+)": r"_head.layers.\1",
    r"_head\.norm\.(\d+)": r"_head.layers.\1.norm",
    r"reg_head\.": "offset_head.",
    r"cls_head\.": "class_head.",
}


def rename(name, names):
    """This project's name of a released weight: each pattern is replaced, one after the other."""
    for old, new in names.items():
        name = re.sub(old, new, name)
    return name


def read_weights(vectors, prefix, names):
    """The weights below `prefix`, under this project's names and in its shapes."""
    weights = {}
    for key, value in vectors.items():
        if not key.startswith(prefix):
            continue
        name = rename(key.removeprefix(prefix), names | BLOCK_NAMES)
        if "mlp" in name and value.ndim == 3:  # a convolution of kernel 1, here a linear layer
            value = value[..., 0]
        if "norm" in name and value.shape[:1] == (1,):
            value = value.flatten()
        weights[name] = torch.from_numpy(value)
    return weights


def compare(ours, released):
    assert_allclose(ours.detach().numpy(), released, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["stem", "branch"])
def test_sgp_block(golden, case):
    vectors = golden("sgp_block")
    weights = read_weights(vectors, f"{case}.w.", {})
    params = Params(
        recipe="published",
        student_dim=len(weights["norm.weight"]),
        student_mlp=len(weights["mlp.0.bias"]),
        student_drop_path=0.0,
        sgp_window=int(vectors[f"{case}.kernel_size"]),
        sgp_factor=float(vectors[f"{case}.k"]),
    )
    block = SGPBlock(params, halve=bool(vectors[f"{case}.stride"] == 2))
    block.load_state_dict(weights)
    x = torch.from_numpy(vectors[f"{case}.x"]).mT
    mask = torch.from_numpy(vectors[f"{case}.mask"]).mT
    y, mask = block(x, mask)
    compare(y.mT, vectors[f"{case}.y"])
    np.testing.assert_array_equal(mask.mT, vectors[f"{case}.mask_out"])


def test_losses(golden):
    vectors = {name: torch.from_numpy(value) for name, value in golden("student_losses").items()}
    offsets = vectors["pred_offsets"], vectors["target_offsets"]
    compare(focal_loss(vectors["logits"], vectors["targets"]), vectors["focal"])
    compare(1 - offset_iou(*offsets), vectors["giou"])
    compare(diou_loss(*offsets), vectors["diou"])


@pytest.fixture
def student(golden):
    """The vectors, the tiny student, its input and the ground truth."""
    vectors = golden("student")
    weights = read_weights(vectors, "w.", STUDENT_NAMES)
    levels = sum(name.startswith("fpn") for name in vectors)
    weights["scales"] = torch.stack([weights.pop(f"offset_head.scale.{level}.scale") for level in range(levels)])
    dim, in_dim, _ = weights["embedding.0.conv.weight"].shape
    window = weights["stem.0.gate.weight"].shape[-1]
    wide = weights["stem.0.wide.weight"].shape[-1]
    params = Params(
        recipe="published",
        student_dim=dim,
        student_mlp=len(weights["stem.0.mlp.0.bias"]),
        student_levels=levels,
        student_stem=len({name.split(".")[1] for name in weights if name.startswith("stem.")}),
        student_bins=len(weights["offset_head.out.bias"]) // 2 - 1,
        student_drop_path=0.0,
        sgp_window=window,
        sgp_factor=wide / (window + 1),
    )
    model = Student(params, in_dim, len(weights["class_head.out.bias"]))
    model.load_state_dict(weights | {"positives": model.positives})
    videos = range(sum(name.startswith("feats") for name in vectors))
    x, mask = pad([torch.from_numpy(vectors[f"feats{i}"].T) for i in videos], vectors["fpn0"].shape[-1])
    segments = [torch.from_numpy(vectors[f"gt_segments{i}"]) for i in videos]
    labels = [torch.from_numpy(vectors[f"gt_labels{i}"]) for i in videos]
    return vectors, model, (x, mask), (segments, labels)


def test_pyramid_and_heads(student):
    vectors, model, batch, _ = student
    features, _ = model.pyramid(*batch)
    for level, feature in enumerate(features):
        compare(feature.mT, vectors[f"fpn{level}"])

    output = model(*batch)
    everywhere = torch.ones(output.mask.shape[:2]).nonzero(as_tuple=True)
    borders = model.borders(output, *everywhere)
    heads = {
        "cls": output.class_logits,
        "start": borders.start_logits,
        "end": borders.end_logits,
        "reg": borders.offsets,
    }
    for name, values in heads.items():
        for level, value in enumerate(values.split(output.lengths, dim=1)):
            compare(value.mT, vectors[f"{name}_head{level}"])
    for level, mask in enumerate(output.mask.split(output.lengths, dim=1)):
        np.testing.assert_array_equal(mask.mT, vectors[f"mask{level}"])


def test_targets(student):
    vectors, model, _, truth = student
    grid = points([vectors[f"fpn{level}"].shape[-1] for level in range(len(model.norms))])
    compare(torch.stack([grid.position, grid.low, grid.high.clamp(max=1e4), grid.stride], dim=1), vectors["points"])
    for i, (segments, labels) in enumerate(zip(*truth, strict=True)):
        classes, offsets, _ = assign(grid, segments, labels, model.class_head.out.out_channels, radius=1.5)
        positive = vectors["cls_targets"][i].any(axis=1)
        compare(classes, vectors["cls_targets"][i])
        compare(offsets[positive], vectors["offset_targets"][i][positive])


def test_loss(student):
    vectors, model, batch, truth = student
    params = Params(**PUBLISHED, mil_weight=0.0)
    video_labels = torch.ones(len(truth[0]), model.class_head.out.out_channels)
    losses = student_loss(model.train(), model(*batch), truth_of(*truth, video_labels), params)
    for ours, released in (("focal", "cls_loss"), ("diou", "reg_loss"), ("loss", "final_loss")):
        compare(losses[ours], vectors[f"loss_{released}"])


@pytest.mark.parametrize("head", ["class_head", "start_head", "end_head", "offset_head", "scales"])
def test_gradient(student, head):
    """In the direction of the gradient, the loss changes as much as the gradient is long.

    `test_loss` compares the loss itself with the released one, in which all that the heads compute has a gradient. In
    the corrected recipe the weight of the focal loss has none, so there the change is less.
    """
    _, model, batch, truth = student
    model.eval()  # the moving number of positives stays the same
    weights = [weight for name, weight in model.named_parameters() if name.startswith(head)]
    video_labels = torch.ones(len(truth[0]), model.class_head.out.out_channels)
    truth = truth_of(*truth, video_labels)

    def loss(recipe):
        return student_loss(model, model(*batch), truth, Params(**PUBLISHED | {"recipe": recipe}, mil_weight=0.0))[
            "loss"
        ]

    @torch.no_grad()
    def loss_after(step, direction):
        for weight, part in zip(weights, direction, strict=True):
            weight.add_(part, alpha=step)
        return loss(recipe).item()

    ratios = {}
    for recipe in ("published", "corrected"):
        gradient = torch.autograd.grad(loss(recipe), weights)
        length = torch.nn.utils.get_total_norm(gradient)
        direction = [part / length for part in gradient]
        above = loss_after(0.003, direction)
        below = loss_after(-0.006, direction)
        loss_after(0.003, direction)  # the weights are as before
        ratios[recipe] = (above - below) / 0.006 / length.item()
    assert ratios["published"] == pytest.approx(1, rel=0.01)
    if head == "class_head":
        assert ratios["corrected"] == pytest.approx(1, rel=0.01)
    else:
        assert ratios["corrected"] < 0.8


def test_detections(student):
    vectors, model, batch, _ = student
    params = Params(recipe="published", pre_nms_topk=2000, max_detections=200)
    with torch.inference_mode():
        detections = detect(model, model.eval()(*batch), params)
    for i, (segments, scores, labels) in enumerate(detections):
        seconds = VideoGrid(fps=30, stride=4, window=16).to_seconds(segments).clamp(0, float(vectors[f"duration{i}"]))
        ours = np.column_stack([labels, scores, seconds])
        released = np.column_stack([vectors[f"det{i}_{name}"] for name in ("labels", "scores", "segments")])
        assert ours.shape == released.shape
        partner = np.abs(ours[:, None] - released).max(axis=2).argmin(axis=1)
        assert len(set(partner)) == len(released)
        assert_allclose(ours, released[partner], rtol=1e-4, atol=1e-5)
