"""Backbones: frames are prepared as by torchvision, features are what classifiers see, wrong weights are named."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fustal.exceptions import InputError
from fustal.video.backbones import CLASSIFIERS, load_backbone, read_weights, torchvision
from fustal.video.extract import make_extractor

pytest.importorskip("av", reason="pip install '.[video]'")
if find_spec("torchvision") is None:
    pytest.skip("pip install '.[video]'", allow_module_level=True)

MODELS = torchvision().models


def network(name, classes=400, seed=0):
    """A network of torchvision with random weights, whose classifier has a number of classes."""
    torch.manual_seed(seed)
    return MODELS.get_model(name, num_classes=classes).eval()


@pytest.fixture(scope="module")
def s3d(tmp_path_factory):
    """A file of random weights of S3D with 7 classes, as after a fine-tuning."""
    file = tmp_path_factory.mktemp("weights") / "s3d.pth"
    torch.save(network("s3d", 7).state_dict(), file)
    return file


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("size", [(240, 320), (96, 61)])
def test_frames_are_prepared_as_by_torchvision(tmp_path, name, size):
    file = tmp_path / "weights.safetensors"
    save_file(network(name).state_dict(), file)
    backbone = load_backbone(name, file)
    clip = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, *size), np.uint8))
    expected = MODELS.get_model_weights(name).DEFAULT.transforms()(clip)
    found = torch.stack([backbone.transform(frame) for frame in clip], dim=1)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "shape"), [("s3d", (14, 224, 224)), ("r3d_18", (8, 64, 64)), ("swin3d_t", (4, 64, 64))]
)
def test_features_are_what_the_classifier_sees(tmp_path, name, shape):
    whole = network(name)
    file = tmp_path / "weights.pth"
    torch.save(whole.state_dict(), file)
    clips = torch.rand(1, 3, *shape)
    with torch.inference_mode():
        scores = whole(clips)
        features = load_backbone(name, file).network(clips)
        last = getattr(whole, CLASSIFIERS[name])
        if name == "s3d":  # its classifier is a convolution
            features = features[..., None, None, None]
        torch.testing.assert_close(last(features).flatten(1), scores, atol=1e-5, rtol=1e-5)


def test_weights_of_other_classes_fit(s3d):
    assert load_backbone("s3d", s3d).weights == s3d


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.pop("features.2.0.weight"), r"does not fit s3d: it has no 'features.2.0.weight'"),
        (lambda values: values.update(more=torch.zeros(1)), r"does not fit s3d, which has no 'more'"),
        (
            lambda values: values.update({"features.2.0.weight": torch.zeros(3)}),
            r"'features.2.0.weight' has the shape \(3,\), not \(64, 64, 1, 1, 1\)",
        ),
        (lambda values: values.update(epoch=7), "must hold arrays by name"),
        (lambda values: values.update({7: torch.zeros(1)}), "must hold arrays by name"),
        (
            lambda values: values.update({"features.2.0.weight": values["features.2.0.weight"] + 0j}),
            "'features.2.0.weight' is of torch.complex64",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named_in_one_line(s3d, tmp_path, change, message):
    values = torch.load(s3d, weights_only=True)
    change(values)
    file = tmp_path / "other.pth"
    torch.save(values, file)
    with pytest.raises(InputError, match=message) as caught:
        load_backbone("s3d", file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


class Code:
    """Runs a command where it is unpickled."""

    def __reduce__(self):
        return eval, ("__import__('pathlib').Path('ran').write_text('ran')",)


def test_code_in_weights_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Code()}, "weights.pth")
    with pytest.raises(InputError, match=r"weights.pth: cannot be read as weights") as caught:
        read_weights(tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()
    assert "weights_only" not in str(caught.value), "no advice to run it"


@pytest.mark.parametrize(("content", "reason"), [(b"", "EOFError"), (b"hello", "KeyError 101")])
def test_each_message_about_broken_weights_has_a_reason(tmp_path, content, reason):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(InputError, match=f"cannot be read as weights: {reason}$"):
        read_weights(tmp_path / "weights.pth")


def test_without_a_network_the_file_to_download_is_named(tmp_path, monkeypatch):
    def offline(*_):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = MODELS.get_model_weights("r3d_18").DEFAULT.url
    with pytest.raises(InputError, match="no route to host") as caught:
        load_backbone("r3d_18")
    assert f"download {url} elsewhere, and give it as --weights FILE" in str(caught.value)


def test_downloaded_weights_are_read_from_the_cache(s3d, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = MODELS.get_model_weights("s3d").DEFAULT.url.rpartition("/")[2]
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    cached = tmp_path / "hub" / "checkpoints" / name
    cached.write_bytes(s3d.read_bytes())
    assert load_backbone("s3d").weights == cached


# --- one's own, and motion ----------------------------------------------------------------------------------------


OWN = """
import torch
from torch import nn


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, clips):
        return clips.mean(dim=(2, 3, 4)) * self.scale


def mean():
    return lambda frame: frame.float() / 255, Mean()


def wrong():
    return Mean()


def broken():
    raise KeyError("no such thing")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "mynets.py").write_text(OWN)
    yield
    sys.modules.pop("mynets", None)


@pytest.mark.parametrize("name", ["mynets:mean", "mynets.mean"])
def test_own_backbones_by_their_dotted_name(own, tmp_path, name):
    save_file({"scale": torch.tensor([1.0, 2.0, 3.0])}, tmp_path / "scale.safetensors")
    backbone = load_backbone(name, tmp_path / "scale.safetensors")
    frame = backbone.transform(torch.full((3, 4, 4), 51, dtype=torch.uint8))
    features = backbone.network(frame[None, :, None])
    torch.testing.assert_close(features, torch.tensor([[0.2, 0.4, 0.6]]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mynets:wrong", "must return a transform and a network, not Mean"),
        ("mynets:broken", "KeyError: 'no such thing'"),
        ("mynets:absent", "AttributeError: module 'mynets' has no attribute 'absent'"),
        ("nonets:mean", "ModuleNotFoundError: No module named 'nonets'"),
        ("s3b", r"is unknown \(did you mean s3d\?\)"),
    ],
)
def test_unknown_backbones_are_named_in_one_line(own, name, message):
    with pytest.raises(InputError, match=message) as caught:
        load_backbone(name)
    assert str(caught.value).startswith("--backbone ")


def test_a_window_that_a_network_does_not_take(s3d):
    with pytest.raises(InputError, match="--backbone s3d: does not take windows of 8 frames"):
        make_extractor("s3d", s3d, 25, 4, 8)


def test_motion_has_no_weights_and_always_the_same_numbers(tmp_path):
    with pytest.raises(InputError, match="backbone motion has no weights to read"):
        load_backbone("motion", tmp_path / "weights.pth")
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (8, 3, 96, 128), np.uint8))
    values = []
    for _ in range(2):
        backbone = load_backbone("motion")
        clip = torch.stack([backbone.transform(frame) for frame in frames], dim=1)[None]
        values.append(backbone.network(clip))
    assert torch.equal(*values)
    assert 0.1 < values[0].std() < 10, "features are of a size of about 1"


def test_motion_tells_up_from_down():
    """A bright square that rises has the opposite directions of one that falls."""
    frames = torch.full((8, 3, 64, 64), 20, dtype=torch.uint8)
    for i in range(8):
        frames[i, :, 20 + 2 * i : 40 + 2 * i, 20:40] = 220
    backbone = load_backbone("motion")
    clip = torch.stack([backbone.transform(frame) for frame in frames], dim=1)[None]
    falls, rises = (backbone.network(each)[0].view(4, 2, -1) for each in (clip, clip.flip(2)))
    vertical = 2  # after the amounts of change
    assert falls[vertical].max() > 0.9, "positive is downwards"
    torch.testing.assert_close(rises[vertical], -falls[vertical].flip(0), atol=1e-4, rtol=0)
