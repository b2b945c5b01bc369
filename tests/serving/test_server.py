"""What comes back of what a client sends."""

from __future__ import annotations

import threading

import ismrmrd
import numpy as np
import pytest
from rich.console import Console

import sansref as package
from sansref.commands.denoised import KEPT, LEARNED, denoised, taken_out
from sansref.commands.reconstruct import reconstruct_slices, whole_files
from sansref.metrics.error_maps import ErrorMapOptions
from sansref.results.scorer import magnitude
from sansref.serving.engine import Engine
from sansref.training.train import train

pytestmark = pytest.mark.slow


@pytest.fixture
def from_file(trained, tmp_path):
    """What ``sansref reconstruct`` makes of the same lines in a file, (slices, rows, columns)."""

    def make(measurement):
        path = measurement.write(tmp_path / f"{measurement.seed}.h5")
        recipe = whole_files(trained.config().preparation)
        return [image.numpy() for image, _ in reconstruct_slices(trained.load(), recipe, path)]

    return make


def same(images, expected):
    """Whether images are those, by slice."""
    assert len(images) == len(expected)
    for image in sorted(images, key=lambda image: image.slice):
        truth = expected[image.slice]
        np.testing.assert_allclose(image.data[0, 0].T, truth, rtol=0, atol=1e-6 * truth.max())


def test_one_slice_comes_back_as_an_image_in_its_place(measurement, connect, play):
    images, texts = play(connect(), measurement())
    assert texts == []
    (image,) = images
    head = image.getHead()
    assert (head.data_type, head.image_type) == (ismrmrd.DATATYPE_FLOAT, ismrmrd.IMTYPE_MAGNITUDE)
    assert (*head.matrix_size, head.channels) == (32, 32, 1, 1)
    assert tuple(head.field_of_view) == (200, 200, 5)
    assert tuple(head.position) == (1, 2, 0)
    directions = (tuple(head.read_dir), tuple(head.phase_dir), tuple(head.slice_dir))
    assert directions == ((0, 1, 0), (1, 0, 0), (0, 0, 1))
    assert (head.measurement_uid, head.image_index, head.image_series_index) == (77, 1, 1)
    assert head.acquisition_time_stamp == 1016  # of the central line
    assert image.meta["DataRole"] == "Image"
    assert image.meta["ImageProcessingHistory"][::2] == ["sansref", "idr"]
    assert image.meta["ImageComments"][0] == "RESEARCH USE ONLY: not for diagnostic use"
    assert image.meta["ImageComments"][2:] == ["2x undersampled"]
    assert image.meta["SequenceDescriptionAdditional"] == "sansref_RESEARCH"


@pytest.fixture(scope="module")
def mapping(trained):
    """A run that sends error maps."""
    engine = Engine(trained, "cpu", error_map=ErrorMapOptions())
    yield engine
    engine.close()


@pytest.mark.parametrize("vendor", ["Nobody", "Siemens"])
@pytest.mark.parametrize("pixel", ["float32", "int16"])
def test_error_maps_come_in_series_of_their_own(
    measurement, mapping, start, connect, play, trained, tmp_path, pixel, vendor
):
    sent = measurement(size=64, slices=2, vendor=vendor)
    images, texts = play(connect(start(engine=mapping, pixel=pixel)), sent)
    assert texts == []
    assert [image.image_series_index for image in images] == [1, 2, 3, 1, 2, 3]
    assert [image.image_index for image in images] == [1, 1, 1, 2, 2, 2]
    plain, _ = play(connect(), measurement(size=64, slices=2, vendor=vendor))
    mapped = package.load(trained.path, accelerator="cpu").error_maps(sent.write(tmp_path / "m.h5"))
    turned = (lambda image: np.roll(image[::-1, ::-1], 1, (0, 1))) if vendor == "Siemens" else np.asarray
    for place, image in enumerate(images):
        number, series = divmod(place, 3)
        expected = [mapped.images, mapped.error_bound, mapped.contradiction][series][number].numpy()
        meta = image.meta
        values = image.data[0, 0].T.astype(float)
        if pixel == "int16":
            values = values * float(meta["RescaleSlope"]) + float(meta["RescaleIntercept"])
        # Noise is that of each slice here, and of all slices of a file there.
        np.testing.assert_allclose(values, turned(expected), atol=0.02 * np.abs(expected).max())
        name = ["sansref_RESEARCH", "sansref_error_bound_RESEARCH", "sansref_contradiction_RESEARCH"][series]
        assert meta["SeriesDescriptionAdditional"] == name
        assert ("not an image" in meta["ImageComments"][0]) == (series > 0)
        assert any(comment.startswith("PSNR") for comment in meta["ImageComments"])
        assert any("Neither map can see" in comment for comment in meta["ImageComments"])
        assert tuple(image.position) == tuple(plain[number].position)


@pytest.mark.parametrize("maps", [None, ErrorMapOptions(folds=4, replicates=1)])
def test_a_run_that_denoises_sends_images_without_noise_and_says_so(
    measurement, start, connect, play, tiny, heads, tmp_path, maps
):
    config = tiny("ssdu", denoise=True, validation=0.2, epochs=1)
    run = train(config, heads, tmp_path / "run", console=Console(quiet=True)).run
    sent = measurement(size=48)
    engine = Engine(run, "cpu", error_map=maps)
    images, texts = play(connect(start(engine=engine)), sent)
    engine.close()
    assert texts == []
    (scan,) = whole_files(run.config().preparation).scans(sent.write(tmp_path / "m.h5"))
    expected = denoised(run.load().reconstruct, scan)
    truth = magnitude(expected.image, scan).numpy() * scan.meta.scale
    np.testing.assert_allclose(images[0].data[0, 0].T, truth, atol=1e-5 * truth.max())
    told = images[0].meta["ImageComments"]
    assert (KEPT if expected.left_alone else taken_out(LEARNED)) in told
    assert any(comment.startswith("noise kept ") for comment in told)


def test_an_image_that_has_no_error_maps_is_sent_all_the_same(measurement, mapping, start, connect, play):
    images, texts = play(connect(start(engine=mapping)), measurement(center=4, every=32))
    assert texts == []
    assert [image.image_series_index for image in images] == [1]
    assert any("too few samples" in comment for comment in images[0].meta["ImageComments"])


@pytest.mark.parametrize("order", ["sequential", "interleaved"])
def test_slices_are_those_of_a_file(measurement, connect, play, from_file, order):
    sent = measurement(slices=3, order=order)
    images, _ = play(connect(), sent)
    assert sorted(image.slice for image in images) == [0, 1, 2]
    assert {image.image_index for image in images} == {1, 2, 3}
    assert [image.position[2] for image in sorted(images, key=lambda image: image.slice)] == [0, 10, 20]
    same(images, from_file(sent))


def test_coils_behind_a_noise_scan_are_those_of_a_file(measurement, connect, play, from_file):
    sent = measurement(coils=4, center=16, noise=True)
    images, texts = play(connect(), sent)
    assert texts == []
    same(images, from_file(sent))


def test_coils_behind_noise_of_a_dead_coil_are_those_of_a_file(measurement, connect, play, from_file, caplog):
    sent = measurement(coils=4, center=16, noise=True)
    for line in sent.lines[:8]:
        line.data[2] = 0
    images, _ = play(connect(), sent)
    assert "coils are not whitened" in caplog.text
    same(images, from_file(sent))


@pytest.mark.parametrize("mode", ["separate", "external", "other", "embedded", "interleaved"])
def test_calibration_lines_are_those_of_a_file(measurement, connect, play, from_file, mode):
    sent = measurement(coils=4, center=16, slices=2)
    told = f"<parallelImaging><accelerationFactor><kspace_encoding_step_1>3</kspace_encoding_step_1>\
<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor><calibrationMode>{mode}</calibrationMode>\
</parallelImaging></encoding>"
    sent.header = sent.header.replace("</encoding>", told)
    for line in sent.lines:
        if line.idx.kspace_encode_step_1 % 3:
            line.set_flag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
    if mode not in ("embedded", "interleaved"):  # a block of all lines near the center, in front
        block = [line for line in sent.lines if 8 <= line.idx.kspace_encode_step_1 < 24]
        sent.lines = [line for line in sent.lines if not line.idx.kspace_encode_step_1 % 3]
        for number, line in enumerate(block):
            apart = ismrmrd.Acquisition(line.getHead(), line.data)
            apart.clear_all_flags()
            apart.set_flag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
            if line.idx.kspace_encode_step_1 == 23:
                apart.set_flag(ismrmrd.ACQ_LAST_IN_SLICE)  # of the calibration, as scanners say it
            sent.lines.insert(number, apart)
    # A repetition without calibration lines takes those of the first.
    for line in [line for line in sent.lines if not line.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)]:
        again = ismrmrd.Acquisition(line.getHead(), line.data)
        again.idx.repetition = 1
        sent.lines.append(again)
    images, texts = play(connect(), sent)
    assert texts == []
    expected = from_file(sent)
    first, second = ([image for image in images if image.repetition == number] for number in (0, 1))
    same(first, expected[:2])
    same(second, expected[2:])


def test_the_reference_generator_s_file_comes_back_as_images(generated, connect, tmp_path, trained):
    path = generated(tmp_path / "a.h5", "-m", 64, "-c", 4, "-a", 4, "-w", 24, "-C")
    with ismrmrd.Dataset(str(path), "dataset", create_if_needed=False) as file:
        header = file.read_xml_header().decode()
        lines = [file.read_acquisition(number) for number in range(file.number_of_acquisitions())]
    client = connect()
    client.start(header)
    client.send(*lines)
    client.end()
    images, texts = client.answers()
    assert texts == []
    assert [image.repetition for image in images] == [0, 1, 2, 3]
    recipe = whole_files(trained.config().preparation)
    expected = [image.numpy() for image, _ in reconstruct_slices(trained.load(), recipe, path)]
    for image, truth in zip(images, expected, strict=True):
        np.testing.assert_allclose(image.data[0, 0].T, truth, rtol=0, atol=1e-5 * truth.max())


def test_averages_are_one_image(measurement, connect, play, from_file):
    sent = measurement(flags=False)
    for line in list(sent.lines):
        again = ismrmrd.Acquisition(line.getHead(), line.data * 1.5)
        again.idx.average = 1
        sent.lines.append(again)
    images, _ = play(connect(), sent)
    same(images, from_file(sent))


@pytest.mark.parametrize("vendor", ["Nobody", "SIEMENS"])
def test_a_slab_comes_back_whole(measurement, connect, play, from_file, vendor):
    sent = measurement(slices=4, vendor=vendor)
    sent.header = sent.header.replace("<z>1</z>", "<z>4</z>")
    for line in sent.lines:
        line.idx.kspace_encode_step_2, line.idx.slice = line.idx.slice, 0
        line.position = (1, 2, 3)
    (image,), texts = play(connect(), sent)
    assert texts == []
    assert tuple(image.getHead().matrix_size) == (32, 32, 4)
    got = image.data[0] if vendor == "Nobody" else np.roll(image.data[0, ::-1, ::-1, ::-1], 1, (0, 1, 2))
    expected = from_file(sent)
    np.testing.assert_allclose(got.transpose(0, 2, 1), expected, rtol=0, atol=1e-6 * np.max(expected))


def test_a_slice_comes_back_before_the_next_is_sent(measurement, connect):
    sent, client = measurement(slices=2), connect()
    client.start(sent.header)
    for index in (0, 1):
        client.send(*(line for line in sent.lines if line.idx.slice == index))
        assert client.answer().slice == index
    client.end()
    assert client.answer() is None


def test_lines_without_flags_are_complete_at_the_end(measurement, connect, play, from_file):
    sent = measurement(slices=2, flags=False)
    images, _ = play(connect(), sent)
    same(images, from_file(sent))


def test_two_clients_at_once_get_their_own_images(measurement, start, connect, play, from_file):
    server, sent, got = start(), [measurement(slices=3, seed=seed) for seed in (0, 50)], {}

    def work(one, client):
        got[one.seed] = play(client, one)

    threads = [threading.Thread(target=work, args=(one, connect(server))) for one in sent]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for one in sent:
        images, texts = got[one.seed]
        assert texts == []
        same(images, from_file(one))


def test_a_complete_scan_is_undersampled_as_in_training(measurement, connect, play, from_file):
    sent = measurement(every=1)
    images, _ = play(connect(), sent)
    assert images[0].meta["ImageComments"][2:] == ["4x undersampled", "by software: variable_density, 4x"]
    same(images, from_file(sent))


def test_images_run_along_the_directions_that_a_siemens_scanner_gives(measurement, connect, play):
    (usual,), _ = play(connect(), measurement())
    (turned,), _ = play(connect(), measurement(vendor="SIEMENS"))
    # Pixel 0 is its own mirror image about pixel n // 2 where n is even.
    expected = np.roll(usual.data[0, 0, ::-1, ::-1], 1, (0, 1))
    np.testing.assert_allclose(turned.data[0, 0], expected)


def test_other_messages_are_read_past(measurement, connect):
    sent, client = measurement(), connect()
    client.serializer.serialize(ismrmrd.ConfigText("<config/>"))
    client.serializer.serialize("hello")
    client.send_header(sent.header)
    client.serializer.serialize(ismrmrd.Waveform.from_array(np.zeros((5, 40000), np.uint32)))
    for line in sent.lines:
        client.send(line)
        client.serializer.serialize(ismrmrd.Waveform.from_array(np.zeros((2, 3), np.uint32)))
    client.end()
    images, texts = client.answers()
    assert (len(images), texts) == (1, [])


def test_a_client_that_only_asks_whether_somebody_is_there_gets_close(connect):
    client = connect()
    client.end()
    assert client.answers() == ([], [])


def test_images_of_integers_are_those_of_magnitudes(measurement, start, connect, play):
    sent = measurement(slices=2)
    magnitudes, _ = play(connect(), sent)
    integers, texts = play(connect(start(pixel="int16")), sent)
    assert texts == []
    for image, expected in zip(integers, magnitudes, strict=True):
        assert image.getHead().data_type == ismrmrd.DATATYPE_SHORT
        slope = float(image.meta["RescaleSlope"])
        np.testing.assert_allclose(image.data * slope, expected.data, rtol=0, atol=0.51 * slope)
