from __future__ import annotations

import ismrmrd
import numpy as np
import pytest
import torch

from sansref.data.mrd.header import parse_header
from sansref.data.provenance import OF_SOURCE, RELATIVE, Provenance
from sansref.scan import ScanMeta
from sansref.serving.images import SentImage, along_directions, mrd_images

HEADER = """<ismrmrdHeader><encoding>
<encodedSpace><matrixSize><x>16</x><y>10</y><z>6</z></matrixSize>
<fieldOfView_mm><x>32</x><y>10</y><z>18</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>8</x><y>10</y><z>4</z></matrixSize>
<fieldOfView_mm><x>16</x><y>10</y><z>12</z></fieldOfView_mm></reconSpace></encoding></ismrmrdHeader>"""


def image_of(slices, pixel="float32", units=OF_SOURCE, **meta):
    done = SentImage(slices, 2.5, ScanMeta("s", "client", **meta), 0.1)
    line = ismrmrd.AcquisitionHeader()
    line.idx.contrast, line.idx.average, line.read_dir = 3, 2, (0, 0, 1)
    made = Provenance(method="ssdu", weights="f" * 64, settings="e" * 64, sampling="poisson_disc, 4x", units=units)
    (image,) = mrd_images(done, line, parse_header("client", HEADER), made, 9, pixel)
    return image


def test_a_slab_is_one_image_with_its_partitions_as_z():
    slices = torch.arange(4 * 8 * 10).reshape(4, 8, 10).float()
    image = image_of(slices)
    np.testing.assert_array_equal(image.data[0], slices.numpy().transpose(0, 2, 1))
    assert tuple(image.getHead().matrix_size) == (8, 10, 4)
    assert tuple(image.field_of_view) == (16, 10, 12)
    assert (image.contrast, image.average, image.image_index) == (3, 0, 9)
    assert image.meta["ImageRowDir"][2] == "1.000000000000000000"
    assert tuple(image_of(slices[:1]).field_of_view) == (16, 10, 3)  # lines of one partition are a slice of it


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({}, []),
        ({"emulated": True}, ["by software: poisson_disc, 4x"]),
        ({"synthetic": True}, ["k-space computed from magnitudes, not measured"]),
        ({"units": RELATIVE}, [RELATIVE]),
    ],
)
def test_comments_tell_what_the_image_is(meta, said):
    comments = image_of(torch.ones(1, 8, 10), **meta).meta["ImageComments"]
    assert comments[0].startswith("RESEARCH USE ONLY")
    assert comments[1:] == ["sansref ssdu, weights ffffffffffffffff", "2.5x undersampled", *said]


@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 5, 4), (4, 6, 6), (1, 5, 5)])
def test_turning_keeps_the_center_and_reverses_the_rest(shape):
    slices = torch.rand(shape)
    assert along_directions(slices, 1) is slices
    turned = along_directions(slices, -1)
    center = [size // 2 for size in shape]
    for index in np.ndindex(*shape):
        mirrored = tuple((2 * middle - at) % size for at, middle, size in zip(index, center, shape, strict=True))
        assert turned[index] == slices[mirrored]


@pytest.mark.parametrize("scale", [1e-9, 1.0, 3e7, 1e25])
def test_integers_and_their_scale_give_the_magnitudes_back(scale):
    slices = scale * torch.rand(4, 8, 10)
    slices[0, 0, 0] = 0
    image = image_of(slices, "int16")
    assert image.data.dtype == np.int16
    assert image.getHead().data_type == ismrmrd.DATATYPE_SHORT
    assert (image.data.min(), image.data.max()) == (0, 4095)
    slope, intercept = (image.meta[f"Rescale{name}"] for name in ("Slope", "Intercept"))
    assert len(slope) <= 16  # a number of DICOM
    back = image.data[0].transpose(0, 2, 1) * float(slope) + float(intercept)
    np.testing.assert_allclose(back, slices.numpy(), rtol=0, atol=0.51 * float(slope))
    assert (image.meta["WindowCenter"], image.meta["WindowWidth"]) == ("2048", "4096")
    assert image.meta["ImageComments"][0].startswith("RESEARCH USE ONLY")


def test_a_black_image_has_integers_too():
    image = image_of(torch.zeros(4, 8, 10), "int16")
    assert not image.data.any()
    assert float(image.meta["RescaleSlope"]) > 0


def test_magnitudes_have_no_scale():
    image = image_of(torch.rand(4, 8, 10))
    assert image.data.dtype == np.float32
    assert "RescaleSlope" not in image.meta
