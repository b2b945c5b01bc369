from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torchmetrics.functional.image import lpips as torchmetrics_lpips

from sansref.errors import FileError, SettingError
from sansref.metrics import lpips as module
from sansref.metrics.lpips import BACKBONES, LPIPS, Features, MissingWeightsError, load_features

VGG_WIDTHS = [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0]


def torchvision_features(name: str) -> nn.Sequential:
    """The layers of torchvision's ``alexnet().features`` and ``vgg16().features``, written from its documentation."""
    layers: list[nn.Module] = []
    if name == "alex":
        layers = [
            nn.Conv2d(3, 64, 11, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
        ]
        layers += [nn.MaxPool2d(3, 2), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1)]
        return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2))
    before = 3
    for width in VGG_WIDTHS:
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2, 2)]
        before = width or before
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Sequential]:
    """Networks of torchvision's shape with random weights, made so that activations keep their size."""
    generator, found = torch.Generator().manual_seed(0), {}
    for name in BACKBONES:
        found[name] = torchvision_features(name)
        for layer in found[name]:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, generator=generator)
                nn.init.normal_(layer.bias, std=0.1, generator=generator)
    return found


def state(network: nn.Module) -> dict[str, Tensor]:
    return {f"features.{name}": value.detach() for name, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def files(networks: dict[str, nn.Sequential], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    for name, network in networks.items():
        save_file(state(network), folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in networks}


@pytest.fixture(scope="module")
def measures(files: dict[str, Path]) -> dict[str, LPIPS]:
    return {name: LPIPS.load(name, file) for name, file in files.items()}  # type: ignore[arg-type]


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("tried to download"))


def pair(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    reference = torch.rand(shape, generator=generator)
    return (reference + 0.2 * torch.randn(shape, generator=generator)).abs(), reference


# The value


@pytest.mark.parametrize(
    ("name", "shape"), [("alex", (31, 31)), ("alex", (64, 47)), ("vgg", (16, 16)), ("vgg", (40, 33))]
)
def test_is_that_of_torchmetrics(
    measures: dict[str, LPIPS],
    networks: dict[str, nn.Sequential],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    shape: tuple[int, int],
) -> None:
    monkeypatch.setattr(torchmetrics_lpips, "_get_tv_model_features", lambda *_: networks[name])
    image, reference = pair(2, *shape)
    for data_range in (1.5, 4.0):
        colours = [(2 * x / data_range - 1)[:, None].expand(-1, 3, -1, -1) for x in (image, reference)]
        expected = torchmetrics_lpips.learned_perceptual_image_patch_similarity(*colours, name, "none")  # type: ignore[arg-type]
        found = measures[name](image, reference, data_range)
        assert float(expected.min()) > 0.001
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_colours_are_weighted_as_in_torchmetrics(
    measures: dict[str, LPIPS], networks: dict[str, nn.Sequential], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grey images cannot tell whether shift and scale have the right order."""
    monkeypatch.setattr(torchmetrics_lpips, "_get_tv_model_features", lambda *_: networks["alex"])
    image, reference = (2 * x.clamp(0, 1) - 1 for x in pair(3, 3, 40, 40))
    expected = torchmetrics_lpips.learned_perceptual_image_patch_similarity(image, reference, "alex", "none")
    torch.testing.assert_close(measures["alex"].distance(image, reference), expected, rtol=1e-4, atol=1e-6)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.sampled_from([0.5, 1.0, 3.0]), st.sampled_from([1e-6, 1.0, 1e4]))
def test_is_a_symmetric_distance_without_units(
    measures: dict[str, LPIPS], seed: int, data_range: float, unit: float
) -> None:
    image, reference = pair(32, 32, seed=seed)
    value = measures["alex"](image, reference, data_range)
    assert value > 0
    assert measures["alex"](reference, reference, data_range) == 0
    assert float(measures["alex"](reference, image, data_range)) == pytest.approx(float(value), rel=1e-5)
    assert float(measures["alex"](unit * image, unit * reference, unit * data_range)) == pytest.approx(
        float(value), rel=1e-3
    )


def test_leading_axes_are_slices(measures: dict[str, LPIPS]) -> None:
    image, reference = pair(2, 3, 32, 35)
    peak = reference.amax((-2, -1)) * torch.linspace(0.5, 1, 3)
    found = measures["alex"](image, reference, peak)
    assert found.shape == (2, 3)
    for index in ((0, 0), (1, 2)):
        alone = measures["alex"](image[index], reference[index], float(peak[index]))
        assert alone.shape == ()
        assert float(found[index]) == pytest.approx(float(alone), rel=1e-5)
    assert measures["alex"](image[:, :0], reference[:, :0], 1.0).shape == (2, 0)


def test_values_beyond_the_range_count(measures: dict[str, LPIPS]) -> None:
    _, reference = pair(32, 32)
    brighter = reference.where(reference < 0.8, 3.0)
    assert measures["alex"](brighter, reference, 1.0) > measures["alex"](brighter.clamp(max=1), reference, 1.0)


def test_precision_is_that_of_the_weights(files: dict[str, Path]) -> None:
    image, reference = pair(32, 32)
    measure = LPIPS.load("alex", files["alex"])
    single = measure(image.double(), reference.double(), 1.0)
    double = measure.double()(image, reference, 1.0)
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert float(single) == pytest.approx(float(double), rel=1e-4)


def test_images_can_learn_from_it_but_its_weights_do_not_move(measures: dict[str, LPIPS]) -> None:
    """Also where no feature is active, and the norm has no derivative."""
    image, reference = torch.zeros(32, 32, requires_grad=True), pair(32, 32)[1]
    measures["alex"](image, reference, 1.0).backward()
    assert image.grad is not None
    assert bool(image.grad.isfinite().all())
    assert bool(image.grad.any())
    assert not any(parameter.requires_grad for parameter in measures["alex"].parameters())


# Golden values, where the real weights are at hand


def real_weights(name: str) -> Path | None:
    variable = f"SANSREF_LPIPS_{name.upper()}"
    if given_file := os.environ.get(variable):
        return Path(given_file)
    if not BACKBONES[name].cached.exists():  # type: ignore[index]
        pytest.skip(f"no ImageNet weights: {variable} names no file, and {BACKBONES[name].cached} is missing")  # type: ignore[index]
    return None


def waves() -> tuple[Tensor, Tensor]:
    y, x = torch.arange(64.0)[:, None] / 64, torch.arange(48.0) / 48
    reference = (1 + torch.sin(9 * y + 4 * x * x) * torch.cos(7 * x - 3 * y)) / 2
    return reference + 0.15 * torch.sin(90 * x * y), reference


@pytest.mark.parametrize(("name", "one", "two"), [("alex", 0.758247, 0.646363), ("vgg", 0.493813, 0.533268)])
def test_is_that_of_the_reference_implementation(name: str, one: float, two: float) -> None:
    """Values of the package lpips 0.1.4 with data ranges 1 and 2."""
    measure = LPIPS.load(name, real_weights(name))  # type: ignore[arg-type]
    assert float(measure(*waves(), 1.0)) == pytest.approx(one, abs=1e-5)
    assert float(measure(*waves(), 2.0)) == pytest.approx(two, abs=1e-5)


def test_is_that_of_torchmetrics_documentation() -> None:
    """0.3566 in torchmetrics 0.9.3 for uniform noise in [0, 1], 0.3493 in 0.11.4 for the same noise in [-1, 1].

    Both examples draw their noise after torchvision and lpips have drawn a start for every weight that they load.
    """
    measure = LPIPS.load("vgg", real_weights("vgg"))
    generator, drawn = torch.Generator().manual_seed(123), 138_357_544 + sum(len(head) for head in measure.heads)
    for part in [2**22] * (drawn // 2**22) + [drawn % 2**22]:
        torch.rand(part, generator=generator)
    image, reference = (torch.rand(10, 3, 100, 100, generator=generator) for _ in range(2))
    with torch.inference_mode():
        assert float(measure.distance(image, reference).mean()) == pytest.approx(0.3566, abs=5e-5)
        assert float(measure.distance(2 * image - 1, 2 * reference - 1).mean()) == pytest.approx(0.3493, abs=5e-5)


# Weights


def test_state_dict_of_pytorch_and_safetensors_are_the_same(
    measures: dict[str, LPIPS], networks: dict[str, nn.Sequential], tmp_path: Path
) -> None:
    whole = {**state(networks["alex"]), "classifier.1.weight": torch.ones(2, 2)}
    torch.save(whole, tmp_path / "alexnet.pth")
    found = LPIPS.load("alex", str(tmp_path / "alexnet.pth"))
    assert found(*pair(32, 32), 1.0) == measures["alex"](*pair(32, 32), 1.0)


def test_cache_of_pytorch_is_found(
    networks: dict[str, nn.Sequential], empty_cache: Path, no_network: None, measures: dict[str, LPIPS]
) -> None:
    empty_cache.mkdir(parents=True)
    torch.save(state(networks["alex"]), empty_cache / "alexnet-owt-7be5be79.pth")
    for download in (False, True):
        assert LPIPS.load("alex", download=download)(*pair(32, 32), 1.0) == measures["alex"](*pair(32, 32), 1.0)


@pytest.mark.parametrize(("name", "file"), [("alex", "alexnet-owt-7be5be79.pth"), ("vgg", "vgg16-397923af.pth")])
def test_missing_weights_are_one_clear_line(empty_cache: Path, no_network: None, name: str, file: str) -> None:
    with pytest.raises(
        MissingWeightsError, match=r"not on this machine: .*--lpips_weights, .*--lpips_download"
    ) as raised:
        LPIPS.load(name)  # type: ignore[arg-type]
    assert isinstance(raised.value, SettingError)
    assert f"https://download.pytorch.org/models/{file} at {empty_cache / file}" in str(raised.value)


def test_download_is_checked_and_unpickles_nothing(
    networks: dict[str, nn.Sequential], empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(url: str, **options: object) -> None:
        asked.append((url, options["check_hash"], options["weights_only"]))
        empty_cache.mkdir(parents=True)
        torch.save(state(networks["alex"]), empty_cache / "alexnet-owt-7be5be79.pth")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    assert LPIPS.load("alex", download=True)(*pair(32, 32), 1.0) > 0
    assert asked == [("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", True, True)]


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("invalid hash value")])
def test_failed_download_is_one_clear_line(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fetch(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    with pytest.raises(SettingError, match=rf"could not be downloaded \({error}\): .*--lpips_weights") as raised:
        LPIPS.load("alex", download=True)
    assert not isinstance(raised.value, MissingWeightsError)


def test_weights_of_another_network_are_refused(networks: dict[str, nn.Sequential], files: dict[str, Path]) -> None:
    message = r"vgg\.safetensors: does not hold the features of AlexNet \(features\.0\.weight is \(64, 3, 3, 3\), not "
    with pytest.raises(FileError, match=message):
        LPIPS.load("alex", files["vgg"])
    weights = state(networks["alex"])
    for name, changed, problem in [
        ("features.10.bias", {}, "features.10.bias is missing"),
        ("features.12.weight", {"features.12.weight": torch.ones(1)}, "features.12.weight is not part of it"),
    ]:
        given_weights = {key: value for key, value in weights.items() if key != name} | changed
        with pytest.raises(FileError, match=problem) as raised:
            Features(BACKBONES["alex"], given_weights, Path("some.pth"))
        assert raised.value.cure.startswith(
            "Give those of https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
        )


class Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_files_that_hold_no_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / name
    with pytest.raises(FileError, match=r"cannot be read \(No such file"):
        load_features(BACKBONES["alex"], file)
    for content in (b"", b"no weights at all", pickle.dumps({"features.0.weight": Harm()})):
        file.write_bytes(content)
        with pytest.raises(FileError, match=r"weights\.\w+: is not a file of weights, or is damaged"):
            load_features(BACKBONES["alex"], file)
    torch.save({"features.0.weight": Harm()}, tmp_path / "harm.pth")
    with pytest.raises(FileError, match="is not a file of weights"):
        load_features(BACKBONES["alex"], tmp_path / "harm.pth")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [[1.0], {"features.0.weight": 3}])
def test_other_things_than_tensors_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(FileError, match="holds something else than named tensors"):
        load_features(BACKBONES["alex"], tmp_path / "other.pth")


def test_weights_are_never_random(files: dict[str, Path], networks: dict[str, nn.Sequential]) -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    features = load_features(BACKBONES["alex"], files["alex"])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, state(networks["alex"])[name]) for name, value in features.state_dict().items())


@pytest.mark.parametrize("places", [None, [], ["nowhere"]])
def test_missing_heads_are_one_clear_line(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, places: list[str] | None
) -> None:
    class Spec:
        submodule_search_locations = places

    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None if places is None else Spec())
    with pytest.raises(SettingError, match="takes its heads from torchmetrics 1"):
        LPIPS.load("alex", files["alex"])


def test_needs_neither_torchvision_nor_an_import_of_torchmetrics(files: dict[str, Path]) -> None:
    code = (
        "import sys; from sansref.metrics.lpips import LPIPS; LPIPS.load('alex', sys.argv[1]); "
        "print([name for name in ('torchmetrics', 'torchvision', 'scipy') if name in sys.modules])"
    )
    words = [sys.executable, "-c", code, str(files["alex"])]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "[]\n"


# Wrong images


@pytest.mark.parametrize(("name", "title", "side"), [("alex", "AlexNet", 31), ("vgg", "VGG16", 16)])
def test_small_images_are_refused(measures: dict[str, LPIPS], name: str, title: str, side: int) -> None:
    assert math.isfinite(float(measures[name](*pair(side, side), 1.0)))
    message = f"an image of {side} x {side - 1} pixels is too small for LPIPS with {title}, which needs {side} x {side}"
    with pytest.raises(SettingError, match=message):
        measures[name](*pair(side, side - 1), 1.0)


def test_wrong_arguments_are_refused(measures: dict[str, LPIPS]) -> None:
    image, reference = pair(32, 32)
    for bad, message in [
        ((image.to(torch.complex64), reference, 1.0), "image is complex: take its magnitude first"),
        ((image, reference.to(torch.complex64), 1.0), "reference is complex"),
        ((image, reference[:-1], 1.0), r"image \(32, 32\) and reference \(31, 32\) differ in shape"),
        ((image[0], reference[0], 1.0), r"must be \(\.\.\., height, width\)"),
        ((image, reference, 0.0), "data_range must be positive, got 0"),
        ((image, reference, math.nan), "data_range must be positive"),
    ]:
        with pytest.raises(ValueError, match=message):
            measures["alex"](*bad)
