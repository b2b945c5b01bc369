from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
import yaml

from sansref.data.coil_maps import CoilOptions
from sansref.errors import SettingError
from sansref.methods import Needs, SSDUOptions
from sansref.methods.registry import METHODS
from sansref.networks import TranslatorOptions
from sansref.training.config import RunConfig, TrainingOptions


@pytest.mark.parametrize("method", METHODS)
def test_flat_names_survive_yaml_and_come_back_as_the_same_configuration(tiny, method):
    network = {"complex": METHODS[method].network_type is TranslatorOptions}
    config = tiny(method, crop=[30, 28], matrix=[24, 26], snr=None, network=network, magnitude=True, seed=3)
    again = RunConfig.from_flat(yaml.safe_load(yaml.safe_dump(config.flat())))
    assert again == config
    assert again.selection.crop == (30, 28)
    assert again.flat() == config.flat()


def test_no_two_groups_of_options_share_a_name():
    for method, entry in METHODS.items():
        names = [option.name for kind in (entry.options_type, *RunConfig.groups.values()) for option in fields(kind)]
        names += ["method", "magnitude", "network", "data", "full", "undersampled", "out", "config", "skip_bad"]
        assert len(set(names)) == len(names), method


@pytest.mark.parametrize("method", METHODS)
def test_defaults_are_a_configuration(method):
    config = RunConfig.from_flat({"method": method})
    assert config.flat()["method"] == method
    unpaired = dict.fromkeys(("switchable", "iscl", "cyclegan"), Needs.UNPAIRED)
    paired = dict.fromkeys(("supervised", "supervised_generator"), Needs.PAIRED)
    assert config.needs is (unpaired | paired).get(method, Needs.UNDERSAMPLED)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_brings_its_own_settings_of_training(method):
    plain, own = TrainingOptions(), METHODS[method].training_defaults
    config = RunConfig.from_flat({"method": method})
    assert config.training == replace(plain, **own)
    assert RunConfig.from_flat({"method": method, "optimizer": "adam"}).training.optimizer == "adam"
    assert (config.training.optimizer == "radam") == (METHODS[method].network_type is TranslatorOptions)


def test_options_of_another_method_are_a_mistake():
    with pytest.raises(ValueError, match="method 'iscl' takes ISCLOptions and TranslatorOptions, got SSDUOptions and"):
        RunConfig("iscl", SSDUOptions())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "there is no method 'None': use one of idr, idr_paper, ssdu, supervised"),
        ({"method": "magic"}, "there is no method 'magic': use one of idr, idr_paper, ssdu, supervised"),
        ({"method": "idr", "epoch": 3}, "unknown setting 'epoch' for method 'idr': did you mean epochs"),
        ({"method": "ssdu", "stages": 3}, "unknown setting 'stages' for method 'ssdu'"),
        ({"method": "ssdu", "network": {"layers": 3}}, r"unknown setting 'network\.layers' for method 'ssdu'"),
        ({"method": "ssdu", "network": 3}, "network must hold settings such as 'phases: 9', got 3"),
        ({"method": "ssdu", "network": {"phases": 0}}, r"network\.phases must .*, got 0"),
        ({"method": "ssdu", "epochs": 0}, "epochs must be at least 1, got 0"),
    ],
)
def test_impossible_configurations_are_named(values, message):
    with pytest.raises(SettingError, match=message):
        RunConfig.from_flat(values)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *[(name, 0, "at least 1") for name in ("epochs", "repeats", "batch_size", "plateau_patience", "patience")],
        *[(name, -1, "at least 0") for name in ("workers", "threads", "lookahead", "folds")],
        *[("average_from", value, "be null") for value in (-0.1, 1.0)],
        *[(name, value, "between 0 and 1") for name in ("held_out", "plateau_factor") for value in (0.0, 1.0)],
        *[("learning_rate", value, "be positive") for value in (0.0, -1.0, float("nan"))],
    ],
)
def test_impossible_training_options_are_named(name, value, message):
    with pytest.raises(SettingError, match=rf"{name} must .*{message}.*, got {value}"):
        TrainingOptions(**{name: value})


def test_a_fold_without_their_number_is_refused():
    with pytest.raises(SettingError, match="fold 1 of how many"):
        TrainingOptions(fold=1)


def test_new_weights_depend_on_seed_and_stage_alone(tiny):
    def weights(seed, stage):
        torch.manual_seed(torch.seed())  # whatever was drawn before
        return torch.cat([p.detach().flatten() for p in tiny("idr", seed=seed).build(stage).parameters()])

    assert torch.equal(weights(0, 1), weights(0, 1))
    assert not torch.equal(weights(0, 0), weights(0, 1))
    assert not torch.equal(weights(0, 0), weights(1, 0))


def test_building_leaves_the_global_random_state_alone(tiny):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    tiny("idr").build()
    assert torch.equal(torch.rand(4), expected)


def test_preparation_and_family_follow_the_configuration(tiny):
    config = tiny("idr", seed=5, acceleration=3.0, snr=None, magnitude=True, slices=2, virtual_coils=6)
    recipe = config.preparation
    assert (recipe.seed, recipe.magnitude, recipe.slices.slices) == (5, True, 2)
    assert (recipe.simulation.snr, recipe.sampling.acceleration) == (None, 3.0)
    assert recipe.coils == CoilOptions(virtual_coils=6)
    family = config.sampling.family(emulated=True)
    masks = [family.another(torch.ones(32, 32, dtype=torch.bool), number) for number in range(2)]
    assert [round(mask.numel() / int(mask.sum()), 1) for mask in masks] == [3.0, 3.0]


def test_configurations_compare_by_value(tiny):
    assert tiny("idr") == tiny("idr")
    assert tiny("idr") != tiny("idr", seed=1)
    assert replace(tiny("idr"), magnitude=True) != tiny("idr")
