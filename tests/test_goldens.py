"""Images that finished runs of every method have always given: weights of earlier versions keep their meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sansref.kspace.measurement import Measurement
from sansref.training.config import RunConfig

FOLDER = Path(__file__).parent / "goldens"
TRANSLATORS = {"width": 2, "blocks": 1, "extractor_layers": 3}
ROOM = {"headroom": 2.0}  # as in the configuration of a run of that time
ISTA = {"phases": 2, "channels": 4}
RUNS: dict[str, dict[str, Any]] = {
    "ssdu": {"method": "ssdu", "network": ISTA},
    "ssdu_coils": {"method": "ssdu", "network": ISTA},
    "ssdu_gauss": {"method": {"name": "ssdu", "data_consistency": "none"}, "network": ISTA},
    "ssdu_unet": {"method": "ssdu", "network": {"name": "unet", "channels": 4, "pools": 2}},
    "idr": {"method": "idr", "network": ISTA},
    "supervised": {"method": {"name": "supervised", "data_consistency": "hard"}, "network": ISTA},
    "supervised_real": {"method": "supervised", "network": {**ISTA, "complex": False, "name": "ista"}},
    "switchable": {"method": {"name": "switchable", **ROOM}, "network": TRANSLATORS},
    "iscl": {"method": {"name": "iscl", **ROOM}, "network": TRANSLATORS},
    "cyclegan": {"method": {"name": "cyclegan", **ROOM}, "network": TRANSLATORS},
    "supervised_generator": {"method": {"name": "supervised_generator", **ROOM}, "network": TRANSLATORS},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_finished_run_gives_the_image_that_it_always_gave(name: str) -> None:
    golden = load_file(FOLDER / f"{name}.safetensors")
    method = RunConfig.from_values(RUNS[name]).build().eval()
    weights = {key.removeprefix("weights."): value for key, value in golden.items() if key.startswith("weights.")}
    missing, unexpected = method.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(key.startswith("discriminators.") for key in missing)  # which no reconstruction needs
    given = Measurement(golden["given.kspace"], golden["given.mask"], golden.get("given.maps"))
    with torch.inference_mode():
        image = method.reconstruct(given)
    # Equal to the last bit on the machine that made them; another processor rounds otherwise.
    torch.testing.assert_close(image, golden["image"], rtol=1e-4, atol=1e-5)
