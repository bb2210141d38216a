"""Small networks for tests, and batches and labels for them."""

import torch

from fustal.engine.videos import pad
from fustal.generator import Generator
from fustal.params import Params
from fustal.student import Student, Truth
from fustal.student.network import Borders, StudentOutput

SMALL = {
    "student_dim": 16,
    "student_mlp": 16,
    "student_levels": 3,
    "student_stem": 1,
    "student_bins": 4,
    "sgp_init_std": 0.1,
    "max_snippets": 64,
    "student_batch": 4,
    "video_score": "softmax",
}
"""Parameters of a student that is trained in a second."""


SMALL_GENERATOR = {
    "generator_snippets": 40,
    "generator_dim": 16,
    "generator_steps": 30,
    "generator_batch": 4,
    "generator_lr": 1e-2,
    "video_score": "softmax",
}
"""Parameters of a generator that is trained in a second."""


PUBLISHED = {"recipe": "published", "video_score": "softmax", "score_ratios": "5", "label_rule": "thresholds"}
"""The released code's behaviour and formulas."""


def small_student(**changes):
    torch.manual_seed(0)
    return Student.from_params(Params(**(SMALL | changes)), in_dim=6, num_classes=2)


def random_batch(*lengths):
    """Random features of sequences of these lengths, padded to 64 snippets, and their mask."""
    torch.manual_seed(1)
    return pad([torch.randn(length, 6) for length in lengths], 64)


def truth_of(segments, labels, video_labels):
    """Truth whose labels all have the weight 1, and whose top fifth of the positions makes the video scores."""
    weights = [torch.ones(len(part)) for part in labels]
    return Truth(segments, labels, weights, video_labels, torch.full((1, video_labels.shape[1]), 5))


class FixedStudent(torch.nn.Module):
    """A student whose outputs do not depend on its input: `output` and `fixed_borders`, both random."""

    def __init__(self, lengths, bins=3, batch=2, classes=2):
        super().__init__()
        torch.manual_seed(2)
        points = sum(lengths)
        class_logits = torch.randn(batch, points, classes)
        start_logits = torch.randn(batch, points, classes)
        end_logits = torch.randn(batch, points, classes)
        offsets = torch.randn(batch, points, 2 * bins + 2)
        mask = torch.ones(batch, points, 1, dtype=torch.bool)
        self.output = StudentOutput(class_logits, mask, lengths, None)
        self.fixed_borders = Borders(start_logits, end_logits, offsets)

    def forward(self, x, mask):
        return self.output

    def borders(self, output, video, point):
        return self.fixed_borders


def copying_generator(classes=2, minimum=0.2):
    """A generator that copies its input: feature c is the activation of class c; `minimum` is its `class_minimum`."""
    model = Generator(6, classes, 6, 0.0).eval()
    with torch.no_grad():
        model.embed.weight.zero_()
        model.embed.weight[:, :, 1] = torch.eye(6)
        model.embed.bias.zero_()
        model.classify.weight.copy_(torch.eye(6)[:classes, :, None])
        model.class_minimum.fill_(minimum)
    return model
