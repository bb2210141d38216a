"""Device, arithmetic and random numbers of a training."""

import numpy as np
import pytest
import torch

from fustal.engine import device
from fustal.engine.device import batch_of_step, epoch_order, pick_device, precision, random_generator, seed_step, send
from fustal.exceptions import InputError
from fustal.params import Params


@pytest.mark.parametrize(
    ("device", "gpu", "expected"),
    [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_pick_device(monkeypatch, device, gpu, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert pick_device(Params(device=device)) == torch.device(expected)


def test_a_missing_gpu_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no GPU"):
        pick_device(Params(device="cuda"))


def test_send_keeps_a_tensor_that_is_on_the_device():
    x = torch.ones(3)
    assert send(x, torch.device("cpu")) is x


# --- precision --------------------------------------------------------------------------------------------------------

BFLOAT16 = Params(precision="bfloat16")


def test_float32_does_not_look_at_the_hardware(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: pytest.fail("the capabilities were read"))
    with precision(Params(), torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16", "bf16"])
def test_bfloat16_where_the_cpu_has_it_and_only_inside(monkeypatch, flag):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, flag: True})
    arithmetic = precision(BFLOAT16, torch.device("cpu"))
    for _ in range(2):
        with arithmetic:
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("capabilities", [{}, {"avx512_bf16": False, "amx_bf16": False, "avx512_f": True}])
def test_bfloat16_that_the_cpu_could_only_emulate_is_refused(monkeypatch, capabilities):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    with pytest.raises(InputError, match=r"^precision: 'bfloat16' .* this CPU does not have it \(use 'float32'\)$"):
        precision(BFLOAT16, torch.device("cpu"))


def test_bfloat16_that_the_gpu_could_only_emulate_is_refused(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    with pytest.raises(InputError, match="this GPU does not have it"):
        precision(BFLOAT16, gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert device.has_bfloat16(gpu)


# --- random numbers ---------------------------------------------------------------------------------------------------


def test_random_generator_depends_on_seed_and_step_alone():
    state = torch.get_rng_state()
    draws = []
    for seed, step in ((0, 1), (1, 0), (0, 0), (0, 1), (2**31 - 1, 7)):
        draws.append(torch.rand(1, generator=random_generator(seed, step)).item())
    assert torch.get_rng_state().equal(state), "the global state does not change"
    assert draws[0] == draws[3]
    assert len(set(draws)) == 4
    seed_step(0, 1)
    assert torch.rand(1).item() != draws[0], "data and computation have different random numbers"


def test_epoch_order_depends_on_seed_and_epoch_alone():
    order = epoch_order(50, 2, seed=7)
    assert sorted(order.tolist()) == list(range(50))
    state = torch.get_rng_state()
    assert epoch_order(50, 2, seed=7).equal(order)
    assert torch.get_rng_state().equal(state), "the global state does not change"
    assert not epoch_order(50, 3, seed=7).equal(order)
    assert not epoch_order(50, 2, seed=8).equal(order)
    assert epoch_order(0, 0, seed=0).tolist() == []


def test_seed_step_depends_on_seed_and_step():
    draws = []
    for seed, step in ((0, 1), (1, 0), (0, 0), (0, 1), (2**31 - 1, 10**6)):
        seed_step(seed, step)
        draws.append(torch.rand(1).item())
    assert draws[0] == draws[3]
    assert len(np.unique(draws)) == 4


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (3, 8), (5, 5), (1, 2)])
def test_batches_cover_every_epoch(count, batch):
    def drawn(seed):
        videos = []
        for step in range(3 * count):
            videos += batch_of_step(count, batch, step, seed)
        return videos

    videos = drawn(seed=1)
    epochs = [videos[i : i + count] for i in range(0, len(videos), count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    if count > 2:
        assert len(set(map(tuple, epochs))) > 1, "epochs are shuffled differently"
        assert videos != drawn(seed=2)
