"""Parameters: valid values, and errors of one line for the others."""

import pytest

from fustal import ROOT
from fustal.data.cards import Card
from fustal.data.files import read_yaml, validated
from fustal.exceptions import InputError
from fustal.params import Params, form, parse_grid
from fustal.tools.sources.fetch import SOURCES

PRESETS = sorted((ROOT / "params").glob("*.yaml"))
CARDS = sorted((ROOT / "params" / "datasets").glob("*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=[path.stem for path in PRESETS])
def test_presets_are_valid(path):
    params = Params.read(path)
    assert params.run == path.stem
    assert (ROOT / "params" / "datasets" / f"{params.dataset}.yaml").exists()


@pytest.mark.parametrize("path", CARDS, ids=[path.stem for path in CARDS])
def test_cards_are_valid_and_can_be_fetched(path):
    assert validated(Card, read_yaml(path), path).name == path.stem
    assert path.stem in SOURCES


def test_demo_is_the_default():
    assert Params.read(ROOT / "params" / "demo.yaml") == Params()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sead: 1", "unknown parameter 'sead' (did you mean 'seed'?)"),
        ("seed: x", "seed: Input should be a valid integer, not 'x'"),
        ("seed: 1.5", "seed"),
        ("seed: true", "seed"),
        ("generator_lr: yes", "generator_lr"),
        ("generator_lr: .nan", "generator_lr"),
        ("generator_lr: 0", "generator_lr: Input should be greater than 0"),
        ("device: tpu", "device"),
        ("precision: float16", "precision: Input should be 'float32' or 'bfloat16', not 'float16'"),
        ("tious: 0.5", "tious"),
        ("tious: '0.5:0:0.7'", "tious"),
        ("run: ../elsewhere", "run"),
        ("run: a{b}", "run"),
        ("score_ratios: 5,x", "score_ratios: '5,x' is not a list of whole numbers such as 5 or 5,10,20"),
        ("score_ratios: '0,5'", "a ratio is 1 to 1000000, unlike 0"),
        ("score_ratios: '5,20,10'", "'5,20,10': each ratio must be larger than the one before it"),
        ("score_ratios: '5,5'", "each ratio must be larger than the one before it"),
        ("score_ratios: 5", "score_ratios"),
        ("label_rule: worst", "label_rule: Input should be 'thresholds' or 'best', not 'worst'"),
        ("label_share: 1.1", "label_share: Input should be less than or equal to 1"),
        ("ema_memory: 0", "ema_memory: Input should be greater than 0"),
        ("ema_decay: 0.999", "unknown parameter 'ema_decay'"),
        ("mil_ratio: 5", "unknown parameter 'mil_ratio'"),
        ("erosion_large: 2", "erosion_large (2) must exceed erosion_small (3)"),
        ("- 1", "must be lines of 'name: value'"),
        ("seed: [", "cannot be read as YAML"),
    ],
)
def test_wrong_parameters_are_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        Params.read(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_names_the_presets(tmp_path):
    with pytest.raises(InputError, match=r"no such parameter file \(there are .*params/demo.yaml"):
        Params.read(tmp_path / "none.yaml")


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001", "1.0E-3"])
def test_yaml_numbers(tmp_path, text):
    path = tmp_path / "p.yaml"
    path.write_text(f"generator_lr: {text}\nstudent_weight_decay: 1")
    assert Params.read(path).generator_lr == 0.001
    assert Params.read(path).student_weight_decay == 1.0


def test_values_of_a_notebook_take_precedence_over_inherited_ones():
    params = Params.from_notebook({"seed": 3, "unrelated": object()}, inherited={"seed": 1, "run": "other"})
    assert (params.seed, params.run) == (3, "other")


def test_from_notebook_refuses_an_unknown_name_that_papermill_injected():
    namespace = {"seed": 3, "sead": 4, "In": ["", "seed: int = 0", "# Parameters\nsead = 4\n"]}
    with pytest.raises(InputError, match="unknown parameter 'sead'"):
        Params.from_notebook(namespace)


def test_grid_includes_both_ends():
    assert parse_grid("0.5:0.05:0.95").tolist() == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert len(parse_grid("0:0.025:0.225")) == 10
    assert len(parse_grid("0.1:0.025:0.9")) == 33


def test_a_card_named_in_a_preset_is_relative_to_it(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "preset.yaml").write_text("dataset: cards/own.yaml\n")
    monkeypatch.chdir(tmp_path)
    expected = str((tmp_path / "mine" / "cards" / "own.yaml").resolve())
    assert Params.read("mine/preset.yaml").dataset == expected
    assert Params.read("mine/preset.yaml", dataset="sbhar").dataset == "sbhar"
    (tmp_path / "mine" / "preset.yaml").write_text("dataset: sbhar\n")
    (tmp_path / "mine" / "sbhar").write_text("")
    assert Params.read("mine/preset.yaml").dataset == "sbhar", "names in params/datasets take precedence"


@pytest.mark.parametrize("change", ["model_copy", "copy"])
def test_changed_parameters_are_validated(change):
    params = Params(seed=3)
    changed = getattr(params, change)(update={"upscale": 1, "generator_lr": 1})
    assert (changed.seed, changed.upscale, changed.generator_lr) == (3, 1, 1.0)
    assert params.upscale == 24
    assert getattr(params, change)() == params
    for update, message in (
        ({"upscal": 1}, r"unknown parameter 'upscal' \(did you mean 'upscale'\?\)"),
        ({"upscale": 0}, "upscale: Input should be greater than or equal to 1"),
        ({"seed": "3"}, "seed: Input should be a valid integer"),
        ({"erosion_large": 1}, "erosion_large"),
    ):
        with pytest.raises(InputError, match=message):
            getattr(params, change)(update=update)


def test_model_construct_validates():
    assert Params.model_construct(seed=3) == Params(seed=3)
    with pytest.raises(InputError, match="unknown parameter 'sead'"):
        Params.model_construct(sead=3)


NUMBERS = [name for name, field in Params.model_fields.items() if field.annotation in (int, float)]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [10**10, -(10**10), 10**400])
def test_every_number_has_limits(name, value):
    with pytest.raises(InputError, match=f"^{name}: ") as error:
        Params(**{name: value})
    assert len(str(error.value)) < 300


def test_limits_are_far_above_the_papers_sizes():
    paper = Params.read(ROOT / "params" / "thumos14.yaml")
    for name in NUMBERS:
        limits = [item.le for item in Params.model_fields[name].metadata if hasattr(item, "le")]
        if limits and limits[0] > 1:
            assert limits[0] >= 10 * getattr(paper, name) or name == "student_levels", name


def test_many_wrong_parameters_are_counted():
    with pytest.raises(InputError, match=r"^(unknown parameter '\w+'.*; ){3}and 4 more$"):
        Params(**dict.fromkeys("abcdefg", 1))


def test_a_preset_is_found_by_its_folder(tmp_path):
    (tmp_path / "params.yaml").write_text("seed: 3\n")
    assert Params.read(tmp_path).seed == 3


@pytest.mark.parametrize("name", Params.model_fields)
def test_the_form_of_a_parameter_is_described(name):
    words = form(name)
    beginnings = {int: "whole number, ", float: "number, ", bool: "true or false", str: "text"}
    kind = Params.model_fields[name].annotation
    assert words.startswith(beginnings.get(kind, ""))
    assert (" to " in words) == (name in NUMBERS)
