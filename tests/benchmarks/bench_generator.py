"""A full-size training step of the generator on a CPU, against the plain loops."""

import pytest
import torch

from fustal.generator import Generator, batch_losses
from fustal.params import Params
from tests.benchmarks.conftest import spent
from tests.benchmarks.plain_generator import PlainGenerator, plain_losses
from tests.networks import PUBLISHED

BATCH, SNIPPETS, DIM, CLASSES = 16, 750, 2048, 20
PARAMS = Params(**PUBLISHED, generator_snippets=SNIPPETS, generator_dim=DIM, generator_lr=1e-4)
RATIOS = torch.full((1, CLASSES), 5)


def _step(network, losses, **options):
    """A function for one step of training: forward, losses, backward, Adam; it has been called once."""
    torch.manual_seed(0)
    model = network(DIM, CLASSES, DIM, PARAMS.generator_dropout)
    optimizer = torch.optim.Adam(model.parameters(), PARAMS.generator_lr, weight_decay=5e-4, **options)
    features = torch.randn(BATCH, SNIPPETS, DIM).relu()
    labels = torch.eye(CLASSES)[torch.randint(CLASSES, (BATCH,))]

    def step():
        loss = losses(model(features), labels)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    step()
    return step


@pytest.mark.usefixtures("two_threads")
def test_generator_step(compare, benchmark):
    ours = _step(Generator, lambda output, labels: batch_losses(output, labels, RATIOS, PARAMS), fused=True)
    compare(
        f"generator step, batch {BATCH} × {SNIPPETS} × {DIM} → {DIM}",
        "≥ 2 × (3.0 s elsewhere)",
        ours,
        _step(PlainGenerator, lambda output, labels: plain_losses(output, labels, PARAMS)),
        note="float32, 2 threads, Adam included",
        rounds=3,
    )
    benchmark.extra_info["details"] = f"time of a generator step: {spent(ours)}"
