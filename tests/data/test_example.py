from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sansref.data.simulate import example_image
from sansref.errors import SansrefError


def test_the_example_is_a_head() -> None:
    image = example_image()
    assert image.shape == (256, 256)
    assert image.dtype == torch.float32
    assert (float(image.min()), float(image.max())) == (0.0, 1.0)
    brain, air = image[60:120, 90:160], image[:20]
    assert float(brain.mean()) > 0.4
    assert float(air.mean()) < 0.01
    shuffled = image.flatten()[torch.randperm(image.numel(), generator=torch.Generator().manual_seed(0))]
    roughness = image.diff(dim=0).abs().mean() / shuffled.diff().abs().mean()
    assert float(roughness) < 0.2  # Neighbours are alike: rows and columns are not mixed up.


def test_a_matplotlib_without_sample_data_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("matplotlib.cbook._get_data_path", lambda *parts: tmp_path.joinpath(*parts))
    with pytest.raises(SansrefError, match=r"without its sample image .*s1045\.ima\.gz.*reinstall"):
        example_image()
