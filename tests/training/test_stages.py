from __future__ import annotations

import json

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from sansref.data.scan_store import ArrayStore, ArrayWriter
from sansref.errors import FileError
from sansref.methods import IDR
from sansref.training import stages as module
from sansref.training.batches import ValidationSet, WithoutHeldOut
from sansref.training.loop import StageResult
from sansref.training.processes import alone
from sansref.training.progress import Progress
from sansref.training.stages import best_so_far, refine, run_stages, stage_files

SHAPES = [(32, 32), (32, 32), (32, 24), (32, 24), (32, 32)]


@pytest.fixture
def scans(make_scans):
    return [scan.without_reference() for scan in make_scans(*SHAPES)]


def shaken(method):
    """Weights that reconstruct something else than the zero-filled image."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return method


@pytest.fixture
def one_process(tiny):
    return alone(tiny().machine)


@pytest.mark.parametrize("consistency", ["hard", "none"])
def test_refined_data_are_the_reconstructions_with_the_acquired_samples(
    tiny, scans, tmp_path, one_process, consistency
):
    method = shaken(tiny("idr", data_consistency=consistency).build())
    refine(method, scans, SHAPES, tmp_path / "store", one_process)
    store = ArrayStore(tmp_path / "store")
    assert len(store) == len(scans)
    for scan, kspace in zip(scans, store, strict=False):
        with torch.no_grad():
            image = method.reconstruct(scan.batch())
        predicted = scan.batch().grid.transform(image)[0]
        torch.testing.assert_close(kspace[0][~scan.mask], predicted[0][~scan.mask], atol=1e-5, rtol=1e-4)
        assert torch.equal(kspace[0][scan.mask], scan.kspace[0][scan.mask])
    assert method.training


def test_a_full_disk_is_one_line_and_leaves_nothing(tiny, scans, tmp_path, monkeypatch, one_process):
    def full(self, array):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ArrayWriter, "append", full)
    with pytest.raises(FileError, match=r"cannot be written \(No space left on device\)"):
        refine(tiny("idr").build(), scans, SHAPES, tmp_path / "store", one_process)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_every_scan_is_refined_once_in_batches_of_one_shape(monkeypatch, batch):
    monkeypatch.setattr(module, "_REFINE_BATCH", batch)
    runs = list(module._runs(SHAPES, range(len(SHAPES))))
    assert [item for start, stop in runs for item in range(start, stop)] == list(range(len(SHAPES)))
    assert all(len(set(SHAPES[start:stop])) == 1 and stop - start <= batch for start, stop in runs)


@pytest.fixture
def play(tiny, scans, tmp_path):
    """All stages in a folder of ``tmp_path``; the same folder again continues it."""

    def run(name="run", build=None, **changes):
        config = tiny("idr", **changes)
        options, folder = config.training, tmp_path / name
        kept = WithoutHeldOut(scans, 0.2, 0)
        validation = ValidationSet(scans, config.sampling.family(emulated=True), 0.2, seed=0)
        progress = Progress("T", config.options.stages, options.epochs, 1, Console(quiet=True))
        one = alone(config.machine)
        return run_stages(build or config.build, kept, SHAPES, validation, options, folder, progress, one), folder

    return run


def test_every_stage_learns_from_data_refined_by_the_best_before(play, monkeypatch):
    refined, fitted = [], []
    original_refine, original_fit = module.refine, module.fit

    def watched_refine(method, scans, shapes, store, *rest):
        refined.append((store.name, {name: value.clone() for name, value in method.state_dict().items()}, scans))
        original_refine(method, scans, shapes, store, *rest)

    def watched_fit(method, scans, shapes, targets, *rest):
        fitted.append((targets, {name: value.clone() for name, value in method.state_dict().items()}))
        return original_fit(method, scans, shapes, targets, *rest)

    monkeypatch.setattr(module, "refine", watched_refine)
    monkeypatch.setattr(module, "fit", watched_fit)
    (best, results), folder = play(stages=3)
    assert [name for name, _, _ in refined] == ["stage-01", "stage-02"]
    assert fitted[0][0] is None
    assert all(isinstance(targets, ArrayStore) for targets, _ in fitted[1:])
    for stage, (_, weights, scans) in enumerate(refined, start=1):
        before = min(range(stage), key=lambda index: results[index].score)
        chosen = load_file(stage_files(folder, before).best)
        assert all(torch.equal(weights[name], chosen[name]) for name in chosen)
        assert all(torch.equal(fitted[stage][1][name], chosen[name]) for name in chosen)  # warm start
        assert isinstance(scans, WithoutHeldOut)
    assert best == stage_files(folder, min(range(3), key=lambda index: results[index].score)).best


@pytest.mark.parametrize("keep", ["best", "last"])
def test_what_a_stopped_training_has_so_far_is_what_it_would_keep(play, keep):
    (best, results), folder = play(stages=2, epochs=3, learning_rate=0.5, keep=keep)
    found = best_so_far(folder, 2, keep)
    assert found is not None
    assert found[0] == best
    assert [(one.epoch, pytest.approx(one.score, rel=1e-5)) for one in found[1]] == [
        (one.epoch, one.score) for one in results
    ]
    assert keep == "best" or [one.epoch for one in results] == [2, 2]


def test_a_method_without_warm_start_has_new_weights_in_every_stage(play, monkeypatch, tiny):
    begun, config = [], tiny("idr", stages=3)

    def cold(stage):
        method = config.build(stage)
        method.warm_start = False
        return method

    def fitted(method, scans, shapes, targets, validation, options, files, stage, *_):
        files.folder.mkdir(parents=True)
        save_file(method.state_dict(), files.best)
        begun.append({name: value.clone() for name, value in method.state_dict().items()})
        return StageResult(1.0 / (stage + 1), 0)

    monkeypatch.setattr(module, "fit", fitted)
    play(build=cold, stages=3)
    for stage, weights in enumerate(begun):
        new = config.build(stage).state_dict()
        assert all(torch.equal(weights[name], new[name]) for name in new)
    assert any(not torch.equal(begun[0][name], begun[1][name]) for name in begun[0])


def test_targets_of_one_stage_at_most_are_on_disk_and_none_at_the_end(play, monkeypatch):
    stores = []
    original = module.fit

    def watched(method, scans, shapes, targets, validation, options, files, *others):
        folder = files.history.parent / "targets"
        stores.append(sorted(path.name for path in folder.iterdir()) if folder.exists() else [])
        return original(method, scans, shapes, targets, validation, options, files, *others)

    monkeypatch.setattr(module, "fit", watched)
    (_, results), folder = play(stages=3, epochs=1)
    assert stores == [[], ["stage-01"], ["stage-02"]]
    assert not (folder / "targets").exists()
    assert not list(folder.rglob("last.ckpt"))
    for stage, result in enumerate(results):
        assert json.loads((folder / "stages" / f"{stage:02d}" / "done.json").read_text()) == {
            "score": result.score,
            "epoch": result.epoch,
        }


def test_finished_stages_are_not_played_again(play, monkeypatch):
    first, _ = play(stages=2, epochs=1)
    monkeypatch.setattr(module, "fit", lambda *arguments: pytest.fail("a finished stage was trained again"))
    again, _ = play(stages=2, epochs=1)
    assert again == first


def test_a_method_of_one_stage_refines_nothing(play, tiny, monkeypatch):
    monkeypatch.setattr(module, "refine", lambda *arguments: pytest.fail("nothing is to be refined"))
    (best, results), folder = play(build=tiny("ssdu").build, epochs=1)
    assert (len(results), best) == (1, stage_files(folder, 0).best)
    assert not (folder / "targets").exists()


def test_held_out_samples_are_never_in_the_refined_data_as_measured(play, scans, monkeypatch):
    # Where validation reuses the training scans, its samples must not come back as targets.
    original, checked = IDR.refine, []

    def watched(self, given):
        kspace = original(self, given)
        for index in range(len(given.mask)):
            scan = next(scan for scan in scans if belongs(given.mask[index], given.kspace[index, 0], scan))
            hidden = scan.mask & ~given.mask[index]
            assert hidden.any()
            assert not given.kspace[index, 0][hidden].any()
            assert not torch.equal(kspace[index, 0][hidden], scan.kspace[0][hidden])
            checked.append(scan.meta.subject)
        return kspace

    def belongs(mask, kspace, scan):
        return scan.mask.shape == mask.shape and torch.equal(scan.kspace[0] * mask, kspace)

    monkeypatch.setattr(IDR, "refine", watched)
    play(stages=2, epochs=1)
    assert sorted(checked) == [scan.meta.subject for scan in scans]
