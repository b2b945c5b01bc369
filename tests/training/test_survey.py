"""What is said before a training: people, parts, slices, sizes, mask, noise, time and memory."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from rich.console import Console

from sansref.data.readers import scan_files
from sansref.errors import FileError, SettingError
from sansref.methods import Needs
from sansref.methods.registry import METHODS
from sansref.training.subjects import survey_of
from sansref.training.survey import survey, tried
from sansref.training.train import dry_run, train


def facts(rows):
    """Values by name; of a name that stands several times, a list."""
    found = {}
    for name, value in rows:
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def test_people_parts_slices_and_sizes(tiny, heads):
    config = tiny("ssdu", test=0.3, validation=0.2, slices=2, matrix=[24, 28], acceleration=2.0)
    told = facts(survey_of(config, heads))
    assert told["files"] == "6 (6 of magnitude)"
    assert told["subjects"] == "6"
    assert told["recognised by"] == "BIDS name: sub-01, sub-02, sub-03, sub-04, sub-05, sub-06"
    assert told["training"].startswith("3 subject(s), 6 of 12 slices: sub-0")
    assert told["validation"].startswith("1 subject(s), 2 of 4 slices")
    assert told["test"].startswith("2 subject(s), 4 of 8 slices")
    assert told["slices"] == "12 of 24 slices taken"
    assert told["matrix"] == "24 x 28, 1 coil(s), resized from 32 x 32 (3 file(s))"
    assert told["mask"].startswith("variable_density, 2x (50.0% of the grid), one for all scans; simulated")
    steps = -(-6 // config.training.batch_size)
    assert f"2 epochs of {steps} steps" in told["expected time"]
    assert "measured on the CPU" in told["expected time"]
    assert "GiB" in told["expected memory"]


def test_the_split_is_that_of_the_training(tiny, heads, trained):
    told = facts(survey_of(trained.config(), heads))
    for part, names in trained.subjects().items():
        assert told[part].endswith(": " + (", ".join(names) or "none"))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_tried(tiny, heads, method):
    options = {} if METHODS[method].needs is not Needs.UNPAIRED else {"test": 0.0}
    told = facts(survey_of(tiny(method, **options), heads))
    assert told["expected time"].startswith("about ")


def test_a_scans_own_mask_and_its_noise(tiny, write_knee, tmp_path):
    write_knee(tmp_path / "under.h5", every=2)
    told = facts(survey_of(tiny("ssdu", acceleration=8.0), tmp_path))
    assert told["mask"] == f"the scan's own, {21 / 36:.1%} of the grid"
    assert told["recognised by"] == "patient id in the file: knee0"
    assert told["noise level"].endswith("of the brightest pixel (32x36, slice 1 of knee0)")


def test_noise_that_nothing_is_known_of(tiny, heads, monkeypatch):
    monkeypatch.setattr("sansref.scan.estimate_noise", lambda *_: SimpleNamespace(level=torch.zeros(1, 1, 1)))
    assert facts(survey_of(tiny("ssdu"), heads))["noise level"] == "unknown (32x32)"


def test_what_is_left_out_is_said(tiny, write_heads, tmp_path):
    write_heads(tmp_path, subjects=2)
    shutil.copyfile(tmp_path / "sub-01_T1w.nii.gz", tmp_path / "sub-01_seg.nii.gz")
    (tmp_path / "broken.nii").write_bytes(b"no scan")
    with pytest.raises(FileError, match=r"broken\.nii"):
        list(survey_of(tiny("ssdu"), tmp_path))
    told = facts(survey_of(tiny("ssdu"), tmp_path, skip_bad=True))
    assert "sub-01_seg.nii.gz" in told["left out"]
    assert told["unreadable"].startswith("1 file(s)")
    assert "broken.nii" in told["unreadable"]


def test_full_scans_of_others_are_told_apart(tiny, heads, write_heads, tmp_path):
    others = write_heads(tmp_path / "others", subjects=2, slices=3)
    told = facts(survey_of(tiny("switchable"), heads, full=others))
    assert told["subjects"] == ["6", "full scans: 2"]
    assert told["full"] == "2 subject(s), 6 of 6 slices: sub-01, sub-02"


def test_a_dry_run_writes_nothing_and_refuses_what_training_would(tiny, heads, tmp_path):
    rows = facts(dry_run(tiny("ssdu"), heads, tmp_path / "run"))
    assert rows["subjects"] == "6"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SettingError, match="--out"):
        list(dry_run(tiny("ssdu"), heads, heads / "run"))
    with pytest.raises(SettingError, match="takes no --full"):
        list(dry_run(tiny("ssdu"), heads, tmp_path / "run", full=heads))
    with pytest.raises(SettingError, match="precision '16-mixed' needs a GPU"):
        list(dry_run(tiny("ssdu", precision="16-mixed"), heads, tmp_path / "run"))


def test_training_says_the_same_and_learns_the_same(tiny, heads, tmp_path):
    config, quiet = tiny("ssdu", epochs=1, test=0.3), Console(quiet=True)
    said = []
    first = train(config, heads, tmp_path / "a", console=quiet, say=said.append).run
    second = train(config, heads, tmp_path / "b", console=quiet).run
    assert first.weights.read_bytes() == second.weights.read_bytes()
    measured = ("expected time", "expected memory")
    told = [f"{name:<16}{value}" for name, value in survey_of(config, heads) if name not in measured]
    assert [line for line in said if not line.startswith(measured)] == told


def test_trying_leaves_random_streams_alone(tiny, heads):
    config = tiny("ssdu")
    (scan, *_) = config.preparation.scans(scan_files(heads).files[0])
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    cost = tried(config, config.build(), scan, 4)
    assert torch.equal(torch.rand(3), expected)
    assert cost.step > 0
    assert cost.reconstruction > 0
    assert cost.memory > 1 << 20


def test_a_larger_training_is_expected_to_take_longer(tiny, heads, monkeypatch):
    """Steps times epochs times what a step took."""
    from sansref.training import survey as module

    monkeypatch.setattr(module, "tried", lambda *_: module.Cost(2.0, 0.5, 3 << 30, "CPU"))
    config = tiny("idr", stages=3, batch_size=2, validation=0.2, test=0.0)
    told = facts(survey_of(replace(config, training=replace(config.training, epochs=50)), heads))
    seconds = 150 * (10 * 2.0) + (150 * 4 + 2 * 20) * 0.5
    assert told["expected time"].startswith(f"about {seconds / 60:.1f} min at most: 150 epochs of 10 steps of 2 s")
    assert told["expected memory"] == "about 3 GiB on the CPU"


def test_a_file_that_cannot_be_prepared_raises_or_is_passed_over(tiny, write_heads, tmp_path):
    write_heads(tmp_path, subjects=3)
    config = tiny("ssdu", matrix=[64, 64])
    found = scan_files(tmp_path)
    parts = {"training": ["sub-01", "sub-02", "sub-03"]}
    with pytest.raises(FileError, match="matrix"):
        list(survey(config, found, parts))
    told = facts(survey(config, found, parts, skip_bad=True))
    assert told["expected time"].startswith("unknown")


def test_the_precision_of_the_training_is_tried(tiny, make_scans, monkeypatch):
    config, seen = tiny("ssdu", precision="bf16-mixed"), []
    method = config.build()
    real = method.network.forward
    monkeypatch.setattr(
        method.network, "forward", lambda given: [seen.append(torch.is_autocast_enabled("cpu")), real(given)][1]
    )
    tried(config, method, make_scans((32, 32))[0].without_reference(), 1)
    assert len(seen) >= 2 and all(seen)


@pytest.mark.parametrize(("method", "idle"), [("cyclegan", True), ("supervised_generator", True), ("iscl", False)])
def test_layers_of_an_extractor_that_a_method_does_not_have_are_without_effect(tiny, heads, method, idle):
    told = facts(survey_of(tiny(method, test=0.0, network={"extractor_layers": 3}), heads))
    assert ("has no extractor" in str(told)) == idle


def test_options_of_another_network_are_without_effect(tiny, heads):
    config = tiny("ssdu")
    other = replace(config, network=replace(config.network, name="modl", pools=3, cg_steps=2))
    told = facts(survey_of(other, heads))["no effect"]
    assert "--network.pools: the network modl has no such part" in told
    assert "cg_steps" not in told


@pytest.mark.parametrize("method", [name for name, kind in METHODS.items() if kind.needs is Needs.PAIRED])
def test_references_that_are_missing_are_told_before_anything_is_tried(tiny, write_knee, tmp_path, method):
    """The dry run tells it, and the training before it has prepared a scan."""
    config = tiny(method, validation=0.5, crop=None)
    (tmp_path / "scans").mkdir()
    for number in range(2):
        write_knee(tmp_path / "scans" / f"knee{number}.h5", number, every=2)
    with pytest.raises(FileError, match=r"knee\d\.h5: has no full reference\. Train 'ssdu' or 'idr' on it"):
        list(dry_run(config, tmp_path / "scans", tmp_path / "run"))
    with pytest.raises(FileError, match=r"knee\d\.h5: has no full reference"):
        train(config, tmp_path / "scans", tmp_path / "run", console=Console(quiet=True), say=print)
    assert not (tmp_path / "run" / "data").exists()


def test_references_to_score_against_are_told_to_be_missing(tiny, write_knee, tmp_path):
    for number in range(2):
        write_knee(tmp_path / f"knee{number}.h5", number, every=2)
    with pytest.raises(FileError, match="has no full reference"):
        list(survey_of(tiny("ssdu", validation=0.5, score="reference"), tmp_path))


def test_subjects_that_are_missing_are_told_by_the_dry_run(tiny, heads, tmp_path):
    with pytest.raises(SettingError, match="learning from references needs further subjects for validation"):
        list(dry_run(tiny("supervised"), heads / "sub-01_T1w.nii.gz", tmp_path / "run"))


def test_masks_of_files_of_one_size_are_all_told(tiny, write_knee, tmp_path):
    write_knee(tmp_path / "full.h5")
    write_knee(tmp_path / "under.h5", 1, every=2)
    told = facts(survey_of(tiny("ssdu", validation=0.0), tmp_path))
    assert told["mask"].startswith("variable_density, 4x (25.0% of the grid), one for all scans")
    assert told["mask"].endswith(f"; the scan's own, {21 / 36:.1%} of the grid")
    assert told["matrix"] == "32 x 36, 1 coil(s) (2 file(s))"


def test_each_size_has_its_turn_and_all_files_count(tiny, write_knee, heads, tmp_path, monkeypatch):
    monkeypatch.setattr("sansref.training.survey.MOST_SHAPES", 2)
    for every in (1, 2, 3):
        write_knee(tmp_path / f"a{every}.h5", every, every=every)
    shutil.copy(heads / "sub-01_T1w.nii.gz", tmp_path)
    matrix = facts(survey_of(tiny("ssdu", validation=0.0), tmp_path))["matrix"]
    assert sorted(line.split(" (")[-1] for line in matrix) == ["1 file(s))", "3 file(s))"]


def test_a_mask_file_is_told_by_its_name_and_its_share(tiny, heads, tmp_path):
    mask = np.random.default_rng(0).random((32, 32)) < 0.4
    mask[10:22, 10:22] = True
    np.save(tmp_path / "mask.npy", mask)
    changes = {"mask": str(tmp_path / "mask.npy"), "acceleration": 8.0, "center": 0.3, "mask_per": "scan"}
    told = facts(survey_of(tiny("ssdu", **changes), heads))
    assert told["mask"].startswith(f"mask file mask.npy ({mask.mean():.1%} of the grid), one for all scans; simulated")
    assert told["no effect"] == "--acceleration, --center, --mask_per: no effect, a mask file is taken as it is"
    assert facts(survey_of(tiny("ssdu", mask_dc="corner"), heads))["no effect"].startswith("--mask_dc: ")


@pytest.mark.parametrize(
    ("method", "changes", "idle"),
    [
        ("ssdu", {"plateau_factor": 0.5, "plateau_patience": 2}, "--plateau_factor, --plateau_patience: no effect"),
        ("ssdu", {"patience": 3, "schedule": "plateau", "keep": "last"}, "--patience: no effect"),
        ("ssdu", {"patience": 3, "plateau_factor": 0.5, "schedule": "plateau"}, None),
        ("ssdu", {"lookahead": 3}, "--lookahead: no effect, method 'ssdu' has no discriminator"),
        ("iscl", {"lookahead": 3}, None),
        ("idr", {"alpha": 0.2}, "--alpha: no effect without --denoise true"),
        ("idr", {"alpha": 0.2, "denoise": True}, None),
        ("ssdu", {"axes": "slice,row,column"}, "--axes: no effect, image volumes say this themselves"),
        ("ssdu", {"plane": "axial"}, None),
    ],
)
def test_settings_that_others_switch_off_are_without_effect(tiny, heads, method, changes, idle):
    told = facts(survey_of(tiny(method, **changes), heads)).get("no effect")
    assert told is None if idle is None else told.startswith(idle)


def test_a_plane_is_of_image_volumes_alone(tiny, write_knee, tmp_path):
    write_knee(tmp_path / "knee.h5")
    told = facts(survey_of(tiny("ssdu", plane="axial"), tmp_path))
    assert told["no effect"] == "--plane: no effect, only image volumes are cut in another plane"


def test_whole_rows_that_are_left_out_are_warned_of(tiny, tmp_path):
    kspace = np.random.default_rng(0).normal(size=(2, 64, 64, 2)).view(np.complex128)[..., 0]
    kspace[:, ::3] = 0
    kspace[:, 28:36] = 1
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", kspace)
    warned, turned = (
        facts(survey_of(tiny("ssdu", axes=axes, max_matrix=None, max_crop=None), tmp_path)).get("warning")
        for axes in ("slice,row,column", "slice,column,row")
    )
    assert warned.startswith("some scans leave out whole rows of k-space: ")
    assert turned is None


def test_full_scans_that_are_not_undersampled_are_warned_of(tiny, write_knee, tmp_path):
    write_knee(tmp_path / "knee.h5")
    told = facts(survey_of(tiny("ssdu", acceleration=1.0), tmp_path))
    assert told["warning"].endswith("lack nothing that could be learned: use an --acceleration above 1")
    with pytest.raises(FileError, match=r"knee\.h5: is fully sampled, .* Use an --acceleration above 1"):
        list(survey_of(tiny("idr", acceleration=1.0), tmp_path))
    assert "warning" not in facts(survey_of(tiny("idr", acceleration=1.0, denoise=True), tmp_path))


@pytest.mark.parametrize(
    ("crop", "turned", "warned"), [((20, 12), True, True), ((20, 20), True, False), ((20, 12), False, False)]
)
def test_rows_that_lie_as_columns_of_other_files_are_warned_of(tiny, tmp_path, crop, turned, warned):
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    for number, order in enumerate(((0, 1, 2), (1, 0, 2) if turned else (0, 1, 2))):
        volume = np.random.default_rng(number).random((28, 16, 4)).astype(np.float32)
        nibabel.save(
            nibabel.Nifti1Image(volume.transpose(order), affine[:, [*order, 3]]), tmp_path / f"sub-0{number}_T1w.nii"
        )
    told = facts(survey_of(tiny("ssdu", validation=0.0, crop=list(crop)), tmp_path))
    assert ("rows of some files lie as columns of others" in told.get("warning", "")) == warned
    if turned and warned:
        assert [line.split("(s)")[1].split(" (")[0] for line in told["matrix"]] == [
            ", cut from 28 x 16",
            ", cut and padded from 16 x 28",
        ]
