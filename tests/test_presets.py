"""Every preset goes through the real command line, up to the point where training would begin."""

from __future__ import annotations

import pytest
import yaml

from sansref import cli
from sansref.errors import SettingError
from sansref.methods.registry import METHODS
from sansref.networks import NetworkOptions, TranslatorOptions
from sansref.presets import preset_file, preset_names
from sansref.settings import by_name
from sansref.training import train as module
from sansref.training.run import RunDirectory
from sansref.training.train import Trained

pytestmark = pytest.mark.slow


def methods_of(name: str) -> list[str]:
    """The methods that a preset is for: one, or all that it gives the same settings to."""
    if name.startswith("switchable-") and name.endswith("-small"):
        return [method for method, kind in METHODS.items() if kind.network_type is TranslatorOptions]
    if name.startswith("small-"):
        return [method for method, kind in METHODS.items() if kind.network_type is NetworkOptions]
    return ["idr_paper" if name.startswith("idr-") else name.split("-")[0]]


CASES = [(name, method) for name in preset_names() for method in methods_of(name)]


@pytest.fixture
def parsed(monkeypatch, tmp_path):
    """The configuration that a command line ends in."""

    def run(*arguments):
        caught = []

        def train(config, data, out, skip_bad, full, say):
            caught.append(config)
            return Trained(RunDirectory(out))

        monkeypatch.setattr(module, "train", train)
        cli.train([*arguments, "--data", str(tmp_path), "--out", str(out)])
        return caught[0]

    out = tmp_path / "run"
    return run


def test_there_are_presets():
    assert len(CASES) >= 10
    assert {method for _, method in CASES} == set(METHODS)


@pytest.mark.parametrize(("name", "method"), CASES)
def test_every_value_of_a_preset_arrives(parsed, name, method):
    config = parsed(method, "--config", name)
    written = by_name(yaml.safe_load(preset_file(name).read_text()))
    found = by_name(config.values())
    assert config.method == method
    assert {key: found[key] for key in written} == written
    config.build()


@pytest.mark.parametrize(("name", "method"), CASES)
def test_a_preset_names_itself_and_its_command_right(name, method):
    first = [line for line in preset_file(name).read_text().splitlines() if line.startswith("#   sansref train ")]
    assert len(first) == 1
    assert f"--config {name} " in first[0]
    assert first[0].split()[3] in METHODS


def test_equals_sign_file_and_later_options(parsed, tmp_path):
    assert parsed("ssdu", "--config=small-4x").sampling.acceleration == 4
    assert parsed("ssdu", "--config", "small-4x", "--acceleration", "5").sampling.acceleration == 5
    own = tmp_path / "own.yaml"
    own.write_text("training: {epochs: 7}\nnetwork:\n  phases: 3\n")
    config = parsed("ssdu", "--config", str(own))
    assert (config.training.epochs, config.network.phases, config.network.channels) == (7, 3, 32)
    both = parsed("ssdu", "--config", "small-8x", "--config", str(own))
    assert (both.sampling.acceleration, both.training.epochs) == (8, 7)
    assert (both.network.phases, both.network.channels) == (3, 16)


def test_a_run_can_be_repeated_from_its_own_configuration(parsed, tiny, tmp_path):
    own = tmp_path / "config.yaml"
    config = tiny("idr", crop=[20, 22], snr=None, seed=7)
    values = config.values()
    values["data"]["folder"] = "/elsewhere"
    own.write_text(yaml.safe_dump(values))
    assert parsed("idr", "--config", str(own)) == config
    with pytest.raises(
        SettingError, match=r"config.yaml: there is no setting 'method\..* \(its method is 'idr', not 'ssdu'\)"
    ):
        parsed("ssdu", "--config", str(own))
    own.write_text("method: idr\n")
    with pytest.raises(SettingError, match="the configuration is for method 'idr', not 'ssdu'"):
        parsed("ssdu", "--config", str(own))


def test_presets_never_set_an_exact_size():
    """A size that data of others do not have would refuse them, or cut what was measured."""
    for path in preset_file("small-4x").parent.glob("*.yaml"):
        values = yaml.safe_load(path.read_text())
        groups = values.get("shared", values)
        assert not {"matrix", "crop"} & groups.get("data", {}).keys(), path.stem


def test_an_unknown_preset_names_the_others():
    with pytest.raises(SettingError, match=r"there is no configuration 'magic': give a YAML file, or one of"):
        preset_file("magic")
