from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import yaml

from sansref.data.coil_maps import CoilOptions
from sansref.errors import SettingError
from sansref.methods import Needs, SSDUOptions
from sansref.methods.registry import METHODS
from sansref.networks import TranslatorOptions
from sansref.training.config import GROUPS, MachineOptions, RunConfig, SplitOptions, TrainingOptions


@pytest.mark.parametrize("method", METHODS)
def test_settings_survive_yaml_and_come_back_as_the_same_configuration(tiny, method):
    network = {"complex": METHODS[method].network_type is TranslatorOptions}
    config = tiny(method, crop=[30, 28], matrix=[24, 26], snr=None, network=network, magnitude=True, seed=3)
    again = RunConfig.from_values(yaml.safe_load(yaml.safe_dump(config.values())))
    assert again == config
    assert again.slices.crop == (30, 28)
    assert again.values() == config.values()


def test_settings_stand_in_eight_groups(tiny):
    values = tiny("idr").values()
    assert values.pop("format") == 2
    assert tuple(values) == GROUPS
    assert values["method"]["name"] == "idr"
    assert values["data"]["simulation"]["snr"] == 30.0


@pytest.mark.parametrize("method", METHODS)
def test_defaults_are_a_configuration(method):
    config = RunConfig.from_values({"method": method})
    assert config == RunConfig.from_values({"method": {"name": method}})
    assert config.values()["method"]["name"] == method
    unpaired = dict.fromkeys(("switchable", "iscl", "cyclegan"), Needs.UNPAIRED)
    paired = dict.fromkeys(("supervised", "supervised_generator"), Needs.PAIRED)
    assert config.needs is (unpaired | paired).get(method, Needs.UNDERSAMPLED)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_brings_defaults_of_its_own(method):
    config, own = RunConfig.from_values({"method": method}), METHODS[method].defaults
    training = {name.removeprefix("training."): value for name, value in own.items() if name.startswith("training.")}
    assert config.training == replace(TrainingOptions(), **training)
    rectified = METHODS[method].network_type is TranslatorOptions and method != "cyclegan"
    assert config.training.optimizer == ("radam" if rectified else "adam")
    assert getattr(config.network, "symmetry", 0.0) == (0.01 if method == "idr_paper" else 0.0)
    other = "adam" if rectified else "radam"
    given = RunConfig.from_values({"method": method, "training": {"optimizer": other}})
    assert given.training.optimizer == other


def test_options_of_another_method_are_a_mistake():
    with pytest.raises(ValueError, match="method 'iscl' takes ISCLOptions and TranslatorOptions, got SSDUOptions and"):
        RunConfig("iscl", SSDUOptions())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "there is no method 'None': use one of idr, idr_paper, ssdu, supervised"),
        ({"method": "magic"}, "there is no method 'magic': use one of idr, idr_paper, ssdu, supervised"),
        ({"method": {"stages": 3}}, "there is no method 'None'"),
        ({"method": "idr", "epochs": 3}, "there is no setting 'epochs': did you mean training.epochs?"),
        ({"method": "idr", "training": {"epoch": 3}}, "there is no setting 'training.epoch': did you mean training"),
        ({"method": {"name": "ssdu", "stages": 3}}, "there is no setting 'method.stages'"),
        ({"method": "ssdu", "network": {"depth": 3}}, r"there is no setting 'network\.depth'"),
        ({"method": "ssdu", "network": 3}, r"network holds settings such as network\.name, not 3"),
        ({"method": "ssdu", "data": {"simulation": 3}}, r"data.simulation holds settings such as"),
        ({"method": "ssdu", "network": {"phases": 0}}, r"network\.phases must .*, got 0"),
        ({"method": "ssdu", "training": {"epochs": 0}}, r"training\.epochs must be at least 1, got 0"),
        ({"method": "idr", "training": {"schedule": "cosine"}}, "schedule takes one of plateau, linear, cooldown, not"),
        (
            {"method": {"name": "idr", "data_consistency": "firm"}},
            "takes one of none, hard, soft, not firm",
        ),
        ({"method": "idr", "network": {"name": "resnet"}}, "network.name takes one of ista_plus, ista, modl, unet"),
        ({"method": "idr", "data": {"magnitude": "perhaps"}}, "data.magnitude takes true or false"),
    ],
)
def test_impossible_configurations_are_named(values, message):
    with pytest.raises(SettingError, match=message):
        RunConfig.from_values(values)


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        *[(TrainingOptions, name, 0, "at least 1") for name in ("epochs", "repeats", "batch_size", "patience")],
        *[(MachineOptions, name, 0, "at least 1") for name in ("devices", "num_nodes")],
        *[(MachineOptions, name, -1, "at least 0") for name in ("workers", "threads")],
        (TrainingOptions, "lookahead", -1, "at least 0"),
        (SplitOptions, "folds", -1, "at least 0"),
        *[(TrainingOptions, "average_from", value, "be null") for value in (-0.1, 1.0)],
        *[(SplitOptions, "held_out", value, "between 0 and 1") for value in (0.0, 1.0)],
        *[(TrainingOptions, "plateau_factor", value, "between 0 and 1") for value in (0.0, 1.0)],
        *[(TrainingOptions, "learning_rate", value, "be positive") for value in (0.0, -1.0, float("nan"))],
    ],
)
def test_impossible_options_are_named(kind, name, value, message):
    with pytest.raises(SettingError, match=rf"{name} must .*{message}.*, got {value}"):
        kind(**{name: value})


def test_a_fold_without_their_number_is_refused():
    with pytest.raises(SettingError, match=r"split.fold is 1: give split.folds too"):
        SplitOptions(fold=1)


def test_settings_are_changed_by_their_short_or_whole_names():
    config = RunConfig.from_values({"method": "idr"})
    changed = config.changed(epochs=3, **{"network.phases": 2}, seed=5, snr=None, split={"seed": 7})
    assert (changed.training.epochs, changed.network.phases, changed.training.seed) == (3, 2, 5)
    assert (changed.simulation.snr, changed.split.seed, changed.data_seed) == (None, 7, 7)
    assert config.changed() == config
    with pytest.raises(SettingError, match="there is no setting 'epoch': did you mean"):
        config.changed(epoch=3)


def test_the_largest_seed_can_be_used_and_no_larger_one():
    assert RunConfig.from_values({"method": "idr", "training": {"seed": 2**53}}).build().stages > 0
    for values in ({"training": {"seed": 2**64}}, {"split": {"seed": -(2**60)}}):
        with pytest.raises(SettingError, match=r"\.seed takes whole numbers up to"):
            RunConfig.from_values({"method": "idr", **values})


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
    config = tiny("idr", seed=5, acceleration=3.0, snr=None, magnitude=True, slices=2, coils={"virtual": 6})
    recipe = config.preparation
    assert (recipe.seed, recipe.magnitude, recipe.slices.slices) == (5, True, 2)
    assert (recipe.simulation.snr, recipe.sampling.acceleration) == (None, 3.0)
    assert recipe.coils == CoilOptions(virtual=6)
    family = config.sampling.family(emulated=True)
    masks = [family.another(torch.ones(32, 32, dtype=torch.bool), number) for number in range(2)]
    assert [round(mask.numel() / int(mask.sum()), 1) for mask in masks] == [3.0, 3.0]


def test_configurations_compare_by_value(tiny):
    assert tiny("idr") == tiny("idr")
    assert tiny("idr") != tiny("idr", seed=1)
    assert replace(tiny("idr"), magnitude=True) != tiny("idr")
