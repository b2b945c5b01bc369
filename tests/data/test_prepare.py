from __future__ import annotations

import json
import pickle
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import torch

from helpers.scans import full_noise_scan
from sansref.data.coil_maps import CoilOptions
from sansref.data.prepare import Preparation, magnitude_of, prepare, scaled
from sansref.data.readers import FileInfo, open_scan_file
from sansref.data.scan_store import PreparedScans, store_scans
from sansref.data.simulate import Sampling, Simulation
from sansref.data.slices import Slices
from sansref.errors import FileError, SettingError
from sansref.kspace.coils import birdcage_maps, rss
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.measurement import Measurement
from sansref.randomness import seeded
from sansref.scan import Geometry, Scan
from sansref.training.batches import ShapeBatches

SIZE = (40, 36)
PLAIN = Simulation(phase=0.0, snr=None)
RECIPE = Preparation(simulation=PLAIN, sampling=Sampling(acceleration=3))
WITHOUT_MAPS = replace(RECIPE, coils=CoilOptions(maps="none"))
WITH_MAPS = replace(RECIPE, sampling=Sampling(acceleration=3, center=0.4))


def complex_noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(*shape, 2)).view(np.complex128)[..., 0].astype(np.complex64)


def write_kspace(path: Path, kspace: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
    return path


def write_volume(path: Path, slices: int = 4, size: tuple[int, int] = SIZE, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = (np.linspace(-1.1, 1.1, n) for n in size)
    inside = np.hypot(rows[:, None], columns) < 1
    texture = np.random.default_rng(seed).uniform(100, 200, (*size, slices))
    volume = (inside[..., None] * texture).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([1.0, 2.0, 3.0, 1.0])), path)
    return path


def with_gaps(*shape: int, seed: int = 0) -> np.ndarray:
    """Noise without the outer columns of every second one, as an accelerated scan has it."""
    kspace = complex_noise(*shape, seed=seed)
    kspace[..., 1 : shape[-1] // 2 - 6 : 2] = 0
    return kspace


def described(*paths: Path) -> list[FileInfo]:
    return [open_scan_file(path).describe(path) for path in paths]


full_scan = partial(full_noise_scan, SIZE)


def undersampled(scan: Scan) -> Scan:
    return Sampling().undersample(scan, seeded(0)).without_reference()


# --- one range for networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("coils", [1, 3])
def test_scaling_makes_the_largest_zero_filled_magnitude_1_and_remembers_how(coils: int) -> None:
    scan = full_scan(coils, scale=0.5)
    scan = replace(scan, kspace=1e-5 * scan.kspace, reference=None if coils > 1 else 1e-5 * ifft2c(scan.kspace)[0])
    one = scaled(Sampling().undersample(scan, seeded(0)))
    assert float(rss(ifft2c(one.kspace)).max()) == pytest.approx(1, rel=1e-5)
    acquired = one.mask
    factor = one.meta.scale / 0.5
    torch.testing.assert_close(one.kspace[:, acquired] * factor, scan.kspace[:, acquired])
    if scan.reference is not None and one.reference is not None:
        torch.testing.assert_close(one.reference * factor, scan.reference)


def test_the_scale_depends_on_acquired_samples_alone() -> None:
    scan = full_scan()
    mask = Sampling().fixed(SIZE).array
    other = replace(scan, kspace=torch.where(mask, scan.kspace, 100 * scan.kspace))
    first, second = (scaled(one.restricted(mask)) for one in (scan, other))
    assert torch.equal(first.kspace, second.kspace)
    assert first.meta == second.meta


# --- from a file to scans ---------------------------------------------------------------------------------------


def test_a_volume_becomes_undersampled_scans_with_references(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "IXI012-HH-T1.nii.gz")
    scans = list(RECIPE.scans(path))
    volume = torch.from_numpy(nibabel.load(path).get_fdata().astype(np.float32))
    mask = RECIPE.sampling.fixed(SIZE).array
    assert [scan.meta.slice for scan in scans] == [0, 1, 2, 3]
    for scan in scans:
        assert torch.equal(scan.mask, mask)
        assert not scan.kspace[:, ~mask].any()
        assert (scan.meta.subject, scan.meta.source, scan.meta.synthetic) == ("IXI012", str(path), True)
        assert scan.reference is not None
        torch.testing.assert_close(fft2c(scan.reference) * mask, scan.kspace[0], rtol=1e-4, atol=1e-4)
        image = scan.reference.abs() * scan.meta.scale
        torch.testing.assert_close(image, volume[..., scan.meta.slice], rtol=1e-4, atol=1e-3)
        assert float(ifft2c(scan.kspace).abs().max()) == pytest.approx(1, rel=1e-5)


def test_only_chosen_slices_are_made(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "a.nii", slices=10)
    recipe = replace(RECIPE, slices=Slices(slices=2, central=0.4, crop=(30, 30), matrix=(20, 24)))
    scans = list(recipe.scans(path))
    assert [scan.meta.slice for scan in scans] == [4, 6]
    assert {tuple(scan.mask.shape) for scan in scans} == {(20, 24)}


@pytest.mark.parametrize("normalise", ["none", "minmax"])
def test_slices_without_content_are_passed_over(tmp_path: Path, normalise: Any) -> None:
    volume = np.zeros((*SIZE, 5), dtype=np.float32)
    volume[10:20, 10:20, 1] = 5
    volume[12:30, 12:30, 2] = 5
    volume[0, 0, 3] = 5  # nothing of it is left by a crop
    volume[..., 4] = 5 if normalise == "minmax" else 0  # constant: it cannot be stretched
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)
    recipe = replace(RECIPE, slices=Slices(crop=(30, 30)), simulation=replace(PLAIN, normalise=normalise))
    assert [scan.meta.slice for scan in recipe.scans(path)] == [1, 2]


@pytest.mark.parametrize("coils", [1, 3])
def test_full_kspace_is_undersampled(tmp_path: Path, coils: int) -> None:
    kspace = complex_noise(2, coils, *SIZE)
    path = write_kspace(tmp_path / "a.h5", kspace if coils > 1 else kspace[:, 0])
    mask = RECIPE.sampling.fixed(SIZE).array
    for scan in WITHOUT_MAPS.scans(path):
        assert torch.equal(scan.mask, mask)
        expected = torch.from_numpy(kspace[scan.meta.slice]) * mask
        torch.testing.assert_close(scan.kspace * scan.meta.scale, expected)
        assert (scan.reference is None) is (coils > 1)
        assert not scan.meta.synthetic


def test_undersampled_kspace_keeps_its_own_mask(tmp_path: Path) -> None:
    kspace = complex_noise(1, *SIZE)
    kspace[..., 1:14:2] = 0
    (scan,) = RECIPE.scans(write_kspace(tmp_path / "a.h5", kspace))
    expected = torch.ones(SIZE, dtype=torch.bool)
    expected[:, 1:14:2] = False
    assert torch.equal(scan.mask, expected)
    assert scan.reference is None


@pytest.mark.parametrize("coils", [1, 3])
def test_measured_kspace_can_be_reduced_to_magnitudes(tmp_path: Path, coils: int) -> None:
    kspace = complex_noise(2, coils, *SIZE)
    path = write_kspace(tmp_path / "a.h5", kspace)
    for scan in replace(RECIPE, magnitude=True).scans(path):
        assert scan.kspace.shape == (1, *SIZE)
        assert scan.meta.synthetic
        assert scan.reference is not None
        image = rss(ifft2c(torch.from_numpy(kspace[scan.meta.slice])))
        torch.testing.assert_close(scan.reference.abs() * scan.meta.scale, image, rtol=1e-4, atol=1e-4)
        assert float(scan.reference.imag.abs().max()) == 0


def test_a_magnitude_shows_the_scored_part_and_needs_all_samples() -> None:
    scan = full_scan(2, crop=(20, 18))
    item = magnitude_of(scan)
    torch.testing.assert_close(item.image, rss(ifft2c(scan.kspace))[10:30, 9:27])
    assert item.meta == replace(scan.meta, crop=None, synthetic=True)
    with pytest.raises(
        FileError,
        match=r"f\.h5: is undersampled and has no full image\. Train without --magnitude to use the measured k-space\.",
    ):
        magnitude_of(undersampled(scan))


def test_simulated_coils_keep_their_maps(tmp_path: Path) -> None:
    recipe = replace(RECIPE, simulation=replace(PLAIN, coils=3))
    prepared = prepare(described(write_volume(tmp_path / "a.nii")), recipe, tmp_path / "out", references=True)
    for scan in prepared:
        assert scan.maps is not None
        assert scan.reference is not None
        expected = fft2c(scan.maps * scan.reference) * scan.mask
        torch.testing.assert_close(scan.kspace, expected, rtol=1e-4, atol=1e-4)


def test_full_scans_stay_full(tmp_path: Path) -> None:
    """The k-space of the full half is what the undersampled half is taken from."""
    full = replace(WITHOUT_MAPS, undersampled=False)
    volume, kspace = write_volume(tmp_path / "a.nii"), write_kspace(tmp_path / "b.h5", complex_noise(2, 3, *SIZE))
    for path in (volume, kspace):
        for kept, thinned in zip(full.scans(path), WITHOUT_MAPS.scans(path), strict=True):
            assert bool(kept.mask.all())
            assert (kept.meta.emulated, thinned.meta.emulated) == (False, True)
            assert (kept.meta.source, kept.meta.slice) == (thinned.meta.source, thinned.meta.slice)
            samples = (kept.kspace * kept.meta.scale)[:, thinned.mask]
            torch.testing.assert_close(samples, thinned.kspace[:, thinned.mask] * thinned.meta.scale)
            assert float(rss(ifft2c(kept.kspace)).max()) == pytest.approx(1, rel=1e-5)
    prepared = prepare(described(volume), full, tmp_path / "out", references=False)
    assert [scan.reference for scan in prepared] == [None] * 4
    assert all(bool(scan.mask.all()) and not scan.meta.emulated for scan in prepared)


@pytest.mark.parametrize("changes", [{}, {"magnitude": True}, {"slices": Slices(crop=(20, 20))}])
def test_undersampled_files_where_full_scans_are_wanted_are_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    kspace = complex_noise(1, *SIZE)
    kspace[..., 1:14:2] = 0
    path = write_kspace(tmp_path / "a.h5", kspace)
    message = r"a\.h5: is undersampled, but full scans are wanted here\. Give it as undersampled data\."
    with pytest.raises(FileError, match=message):
        list(replace(RECIPE, undersampled=False, **changes).scans(path))


def test_scans_depend_on_seed_file_name_and_slice_and_not_on_where_the_folder_lies(tmp_path: Path) -> None:
    recipe = Preparation(simulation=Simulation(phase=1.0, snr=20.0), sampling=Sampling(mask_per="scan"))
    here, there, other = (write_volume(tmp_path / name) for name in ("here/a.nii", "there/a.nii", "there/b.nii"))

    def contents(path: Path, seed: int = 0) -> list[bytes]:
        return [scan.kspace.numpy().tobytes() for scan in replace(recipe, seed=seed).scans(path)]

    assert contents(here) == contents(there)
    everything = contents(here) + contents(other) + contents(here, seed=1)
    assert len(set(everything)) == len(everything)
    assert len({scan.mask.numpy().tobytes() for scan in recipe.scans(here)}) == 4


@pytest.mark.parametrize(
    ("names", "differ"),
    [
        (("sub-01/anat/T1w.nii", "sub-02/anat/T1w.nii"), True),  # one name in the folders of two people
        (("sub-01/anat/sub-01_T1w.nii", "elsewhere/sub-01_T1w.nii"), False),
        (("IXI002-Guys-0828-T1.nii", "copies/IXI002-Guys-0828-T1.nii"), False),
    ],
)
def test_files_of_one_name_differ_in_phase_noise_and_mask_where_they_are_of_two_people(
    tmp_path: Path, names: tuple[str, str], differ: bool
) -> None:
    recipe = Preparation(simulation=Simulation(phase=1.0, snr=20.0), sampling=Sampling(mask_per="scan"))
    one, other = (list(recipe.scans(write_volume(tmp_path / name))) for name in names)
    for first, second in zip(one, other, strict=True):
        assert torch.equal(first.mask, second.mask) is not differ
        assert torch.equal(first.kspace, second.kspace) is not differ
        assert first.reference is not None
        assert second.reference is not None
        if differ:
            size = tuple(first.reference.angle()[10:30, 10:26].flatten() for first in (first, second))
            assert float((size[0] - size[1]).abs().mean()) > 0.01


def test_names_that_say_whose_file_it_is_keep_their_numbers(tmp_path: Path) -> None:
    """Published tables of IXI and BIDS data stay what they are."""
    recipe = Preparation(sampling=Sampling(mask_per="scan"))
    scan = next(iter(recipe.scans(write_volume(tmp_path / "IXI002-Guys-0828-T1.nii"))))
    drawn = recipe.sampling.draw(SIZE, seeded(0, "mask", "IXI002-Guys-0828-T1.nii", 0))
    assert torch.equal(scan.mask, drawn.array)


@pytest.mark.parametrize(("coils", "factor"), [(1, 0.0), (1, 1e-36), (1, 1e38), (3, 0.0), (3, 1e32), (3, 1e38)])
def test_samples_that_make_no_image_in_single_precision_are_one_line(coils: int, factor: float) -> None:
    scan = full_scan(coils, slice=3)
    message = r"f\.h5: has a zero-filled image in slice 3 whose largest value is .*\. Export it again"
    with pytest.raises(FileError, match=message):
        WITH_MAPS.ready(replace(scan, kspace=factor * scan.kspace, reference=None))


# --- onto disk ---------------------------------------------------------------------------------------------------


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_without_references_none_is_written(tmp_path: Path) -> None:
    files = described(write_volume(tmp_path / "a.nii"), write_kspace(tmp_path / "b.h5", complex_noise(2, *SIZE)))
    kept = prepare(files, RECIPE, tmp_path / "kept", references=True)
    none = prepare(files, RECIPE, tmp_path / "none", references=False)
    assert len(kept) == len(none) == 6
    assert (tmp_path / "kept" / "reference").exists()
    assert sorted(path.name for path in (tmp_path / "none").iterdir()) == [
        *("kspace", "maps", "mask", "recipe.json", "scans.json")
    ]
    for with_reference, without in zip(kept, none, strict=True):
        assert with_reference.reference is not None
        assert without.reference is None
        assert torch.equal(with_reference.kspace, without.kspace)


def test_what_was_not_acquired_is_exactly_zero_on_disk(tmp_path: Path) -> None:
    files = described(write_volume(tmp_path / "a.nii"))
    prepare(files, replace(RECIPE, simulation=Simulation(coils=2)), tmp_path / "out", references=False)
    mask = RECIPE.sampling.fixed(SIZE).array.numpy()
    stored = np.fromfile(tmp_path / "out" / "kspace" / "arrays.bin", dtype=np.complex64).reshape(4, 2, *SIZE)
    assert not stored[..., ~mask].any()
    assert (stored[..., mask] != 0).all()


def test_what_was_not_acquired_cannot_be_told_from_what_is_prepared(tmp_path: Path) -> None:
    """Two scans of one name that differ in every sample outside the mask, and nowhere else, give the same bytes.

    The truth outside the mask reaches neither samples, nor scale, nor anything else that training reads.
    """
    mask = RECIPE.sampling.fixed(SIZE).array.numpy()
    truth, elsewhere = complex_noise(3, *SIZE), complex_noise(3, *SIZE, seed=1)
    without, references = [], []
    for name, content in (("one", truth), ("other", np.where(mask, truth, 50 * elsewhere))):
        files = described(write_kspace(tmp_path / "a.h5", content))
        prepare(files, RECIPE, tmp_path / name / "without", references=False)
        prepare(files, RECIPE, tmp_path / name / "with", references=True)
        without.append(bytes_of(tmp_path / name / "without"))
        references.append((tmp_path / name / "with" / "reference" / "arrays.bin").read_bytes())
    assert without[0] == without[1]
    assert references[0] != references[1]  # else the two scans would not differ at all


@pytest.mark.parametrize("coils", [CoilOptions(), CoilOptions(virtual=2, reference="rss")])
def test_measured_coils_get_maps_and_references_that_stay_in_the_store(tmp_path: Path, coils: CoilOptions) -> None:
    files = described(write_kspace(tmp_path / "a.h5", complex_noise(2, 3, *SIZE)))
    recipe = replace(WITH_MAPS, coils=coils)
    prepared = prepare(files, recipe, tmp_path / "out", references=True)
    assert prepared.shapes == [(coils.virtual or 3, 1, *SIZE)] * 2
    for stored, scan in zip(prepared, recipe.scans(files[0].path), strict=True):
        assert scan.maps is not None
        assert scan.reference is not None
        assert torch.equal(stored.maps, scan.maps)
        assert torch.equal(stored.reference, scan.reference)
        assert scan.meta.emulated
        assert float(rss(ifft2c(scan.kspace)).max()) == pytest.approx(1, rel=1e-5)


def test_what_was_not_acquired_of_several_coils_cannot_be_told_either(tmp_path: Path) -> None:
    mask = WITH_MAPS.sampling.fixed(SIZE).array.numpy()
    truth, elsewhere = complex_noise(1, 4, *SIZE), complex_noise(1, 4, *SIZE, seed=1)
    found = []
    for name, content in (("one", truth), ("other", np.where(mask, truth, 50 * elsewhere))):
        files = described(write_kspace(tmp_path / "a.h5", content))
        for virtual in (None, 2):
            recipe = replace(WITH_MAPS, coils=CoilOptions(virtual=virtual))
            prepare(files, recipe, tmp_path / f"{name}-{virtual}", references=False)
            found.append(bytes_of(tmp_path / f"{name}-{virtual}"))
    assert found[:2] == found[2:]
    assert found[0] != found[1]


def test_chosen_slices_can_be_asked_for(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "a.nii", slices=6)
    recipe = replace(RECIPE, slices=Slices(slices=1))
    assert [scan.meta.slice for scan in recipe.scans(path, [4, 0])] == [4, 0]
    (alone,) = recipe.scans(path)
    (asked,) = recipe.scans(path, [alone.meta.slice])
    assert torch.equal(alone.kspace, asked.kspace)


def test_without_leaving_files_out_one_slice_is_read_at_a_time(tmp_path: Path, monkeypatch: Any) -> None:
    """Files of many coils are larger than memory should be."""
    files, alive, most = described(write_volume(tmp_path / "a.nii", slices=5)), 0, 0
    scans = Preparation.scans

    def counted(recipe: Preparation, path: Path) -> Iterable[Scan]:
        nonlocal alive, most
        for scan in scans(recipe, path):
            alive += 1
            most = max(most, alive)
            yield scan
            alive -= 1

    monkeypatch.setattr(Preparation, "scans", counted)
    assert len(prepare(files, RECIPE, tmp_path / "out", references=False)) == 5
    assert most == 1


def test_files_come_in_order_and_an_existing_folder_is_used_again(tmp_path: Path) -> None:
    files = described(write_volume(tmp_path / "b.nii", slices=2), write_volume(tmp_path / "a.nii", size=(32, 30)))
    prepared = prepare(files, RECIPE, tmp_path / "out", references=False)
    assert [Path(meta.source).name for meta in prepared.metas] == ["b.nii"] * 2 + ["a.nii"] * 4
    assert prepared.planes == [SIZE] * 2 + [(32, 30)] * 4
    assert prepared.shapes == [(1, 0, *plane) for plane in prepared.planes]
    assert [scan.kspace.shape for scan in prepared] == [(1, *plane) for plane in prepared.planes]

    def unread() -> Iterable[FileInfo]:
        raise AssertionError("the files were read again")
        yield

    again = prepare(unread(), RECIPE, tmp_path / "out", references=False)
    assert again.metas == prepared.metas


def bad_files(tmp_path: Path) -> list[FileInfo]:
    """A good file, one cut short, one whose second slice is broken, and another good one."""
    paths = [write_volume(tmp_path / f"{name}.nii.gz", seed=i) for i, name in enumerate("ab")]
    paths.insert(1, write_kspace(tmp_path / "broken.h5", complex_noise(3, *SIZE)))
    infos = described(*paths, write_volume(tmp_path / "c.nii.gz"))
    paths[2].write_bytes(paths[2].read_bytes()[:2000])
    with h5py.File(paths[1], "r+") as file:
        file["kspace"][1, 3, 3] = np.nan
    return infos


def test_unreadable_files_can_be_left_out_whole(tmp_path: Path) -> None:
    errors: list[FileError] = []
    prepared = prepare(bad_files(tmp_path), RECIPE, tmp_path / "out", references=False, on_bad=errors.append)
    assert [error.path.name for error in errors] == ["broken.h5", "b.nii.gz"]
    assert [Path(meta.source).name for meta in prepared.metas] == ["a.nii.gz"] * 4 + ["c.nii.gz"] * 4


def test_so_can_files_of_another_size(tmp_path: Path) -> None:
    errors: list[FileError] = []
    infos = described(write_volume(tmp_path / "a.nii"), write_volume(tmp_path / "small.nii", size=(20, 20)))
    recipe = replace(RECIPE, slices=Slices(matrix=(32, 32)))
    prepared = prepare(infos, recipe, tmp_path / "out", references=False, on_bad=errors.append)
    assert {Path(meta.source).name for meta in prepared.metas} == {"a.nii"}
    problem = r"small\.nii: does not go with the settings \(the matrix \(32, 32\) is larger than the scan's \(20, 20\)"
    with pytest.raises(FileError, match=problem):
        raise errors[0]


def test_otherwise_the_first_unreadable_file_stops_and_nothing_appears(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"broken\.h5: holds NaN or infinite k-space in slice 1"):
        prepare(bad_files(tmp_path), RECIPE, tmp_path / "out", references=False)
    assert not (tmp_path / "out").exists()


def test_references_that_are_needed_and_missing_are_one_line(tmp_path: Path) -> None:
    files = described(write_volume(tmp_path / "a.nii"), write_kspace(tmp_path / "b.h5", with_gaps(1, *SIZE)))
    message = r"b\.h5: has no full reference\. Train 'ssdu' or 'idr' on it, with --score held_out\."
    with pytest.raises(FileError, match=message):
        prepare(files, RECIPE, tmp_path / "out", references=True)
    assert not (tmp_path / "out").exists()


def test_no_usable_slice_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no file has a usable slice: look at the files with 'sansref info FILE'"):
        prepare([], RECIPE, tmp_path / "out", references=False)
    assert not (tmp_path / "out").exists()


def test_scans_of_different_shapes_coils_and_origins_come_back_as_they_were(tmp_path: Path) -> None:
    affine = ((1.0, 0.0, 0.25, -90.0), (0.0, -1.5, 0.0, 12.0), (0.0, 0.0, 2.0, 7.0), (0.0, 0.0, 0.0, 1.0))
    first = full_scan(
        1, spacing=(0.9, 1.1), crop=(20, 18), synthetic=True, slice=3, scale=1 / 3, geometry=Geometry(affine, 2)
    )
    second = replace(full_noise_scan((24, 30), 3), maps=birdcage_maps((24, 30), 3), reference=torch.rand(24, 30))
    third = replace(undersampled(full_noise_scan((21, 20))), reference=torch.zeros(21, 20, dtype=torch.complex64))
    prepared = store_scans([first, second, third], tmp_path / "out", references=True)
    for found in (prepared, PreparedScans(tmp_path / "out"), pickle.loads(pickle.dumps(prepared))):
        assert len(found) == 3
        for scan, stored in zip([first, second, third], found, strict=True):
            assert stored.meta == scan.meta
            assert torch.equal(stored.kspace, scan.kspace)
            assert torch.equal(stored.mask, scan.mask)
            assert scan.reference is not None
            assert torch.equal(stored.reference, scan.reference.to(torch.complex64))
            assert (stored.maps is None) is (scan.maps is None)
            assert scan.maps is None or torch.equal(stored.maps, scan.maps)


def test_scans_with_other_sets_of_maps_make_no_batch(tmp_path: Path) -> None:
    plain = full_noise_scan((24, 30), 3)
    one = birdcage_maps((24, 30), 3)
    scans = [
        full_noise_scan((24, 30), 1),
        replace(full_noise_scan((24, 30), 1), maps=one[:1]),
        replace(plain, maps=one),
        replace(plain, maps=torch.cat([one, one], 1)),
    ]
    prepared = store_scans(scans, tmp_path / "out", references=False)
    assert prepared.shapes == [(coils, sets, 24, 30) for coils, sets in ((1, 0), (1, 1), (3, 1), (3, 2))]
    for batch in ShapeBatches(prepared.shapes, 4, 0):
        Measurement.stacked([prepared[item].measurement for item in batch])


def test_the_recipe_tells_what_a_folder_of_maps_holds(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    np.save(maps / "a.npy", np.ones((2, 4, 4), np.complex64))
    recipe = replace(WITH_MAPS, slices=Slices(maps=str(maps)))
    before = recipe.flat()
    assert recipe.flat() == before
    np.save(maps / "a.npy", np.full((2, 4, 4), 2, np.complex64))
    changed = {name for name, value in recipe.flat().items() if before[name] != value}
    assert changed == {"slices.maps"}


def test_coils_without_maps_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"has 3 coils and no sensitivity maps\. Train with --coils.maps espirit"):
        store_scans([full_scan(3)], tmp_path / "out", references=False)
    with pytest.raises(FileError, match=r"has 3 coils and no sensitivity maps"):
        store_scans([full_scan(3)], tmp_path / "out", references=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, "", "[", "3", "[3]", json.dumps([{"subject": "s"}])])
def test_a_damaged_list_of_scans_is_one_line(tmp_path: Path, content: str | None) -> None:
    store_scans([full_scan()], tmp_path / "out", references=False)
    path = tmp_path / "out" / "scans.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(FileError, match=r"out: has no usable list of its scans .* Delete this folder and run"):
        PreparedScans(tmp_path / "out")


def test_the_users_level_of_noise_is_in_the_units_of_the_file(tmp_path: Path) -> None:
    path = write_kspace(tmp_path / "a.h5", complex_noise(3, *SIZE))
    (one, other, _) = replace(RECIPE, noise=0.7).scans(path)
    for scan in (one, other):
        assert scan.meta.noise == pytest.approx((0.7 / scan.meta.scale,))
        assert scan.batch().noise is not None
        assert float(scan.batch().noise) == pytest.approx(0.7 / scan.meta.scale)
    assert one.meta.noise != other.meta.noise
    (unknown, *_) = RECIPE.scans(path)
    assert unknown.batch().noise is None


def test_slices_of_a_file_are_stored_with_one_level_of_noise(tmp_path: Path) -> None:
    names = [write_kspace(tmp_path / "in" / f"{name}.h5", complex_noise(3, *SIZE, seed=name)) for name in (0, 1)]
    scans = [scan for name in names for scan in RECIPE.scans(name)]
    stored = store_scans(scans, tmp_path / "store", False, noise=True)
    levels = [meta.noise[0] * meta.scale for meta in stored.metas if meta.noise is not None]
    assert levels == pytest.approx([levels[0]] * 3 + [levels[3]] * 3)
    assert levels[0] != levels[3]
    assert levels[0] == pytest.approx(1.0, rel=0.2)
    assert stored[4].batch().noise is not None
    again = PreparedScans(tmp_path / "store")
    assert again.metas == stored.metas
    given = store_scans(replace(RECIPE, noise=5.0).scans(names[0]), tmp_path / "given", False, noise=True)
    assert given[1].meta.noise == pytest.approx((5.0 / given[1].meta.scale,))
    assert store_scans(RECIPE.scans(names[0]), tmp_path / "plain", False).metas[0].noise is None
