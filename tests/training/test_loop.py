from __future__ import annotations

import pytest
import torch

from sansref.errors import TrainingError
from sansref.methods import Measured
from sansref.metrics.holdout import held_out_error
from sansref.training.batches import ValidationSet
from sansref.training.loop import Loop


@pytest.fixture
def validation(make_scans, tiny):
    config = tiny("ssdu")
    return ValidationSet(make_scans((32, 32), (32, 24)), config.sampling.family(emulated=True), 0.2, seed=0)


def scored(loop: Loop, validation: ValidationSet) -> list[float]:
    with torch.no_grad():
        for index in range(len(validation)):
            loop.validation_step(validation[index], index)
    return [float(score) for score in loop._scores]


def test_score_is_the_held_out_error_of_the_reconstruction(tiny, validation):
    config = tiny("ssdu")
    method = config.build()
    scores = scored(Loop(method, config.training), validation)
    for score, item in zip(scores, [validation[0], validation[1]], strict=True):
        image = method.reconstruct(item.given).detach()
        truth = held_out_error(image, item.measured, item.held_out, None, item.density)
        assert score == pytest.approx(float(truth), rel=1e-6)


def test_score_against_references_is_the_nmse_of_the_magnitudes(tiny, validation):
    config = tiny("ssdu", score="reference")
    method = config.build()
    scores = scored(Loop(method, config.training), validation)
    for score, item in zip(scores, [validation[0], validation[1]], strict=True):
        image, truth = method.reconstruct(item.given)[0].abs().detach(), item.reference[0].abs()
        assert score == pytest.approx(float(((image - truth) ** 2).sum() / (truth**2).sum()), rel=1e-5)


def test_scoring_against_references_needs_them(tiny, validation):
    item = validation[0]._replace(reference=None)
    with pytest.raises(ValueError, match="a scan has none"):
        Loop(tiny("ssdu").build(), tiny("ssdu", score="reference").training).validation_step(item, 0)


def test_reference_free_score_does_not_read_the_reference(tiny, validation):
    loop = Loop(tiny("ssdu").build(), tiny("ssdu").training)
    item = validation[0]
    loop.validation_step(item, 0)
    loop.validation_step(item._replace(reference=torch.full_like(item.reference, torch.nan)), 0)
    loop.validation_step(item._replace(reference=None), 0)
    assert len({float(score.detach()) for score in loop._scores}) == 1


def test_score_that_is_not_finite_stops_the_training(tiny):
    loop = Loop(tiny("ssdu").build(), tiny("ssdu").training)
    loop._scores = [torch.tensor(0.3), torch.tensor(torch.nan)]
    with pytest.raises(TrainingError, match=r"validation score is nan in epoch 0: .*lower --learning_rate .*--out"):
        loop.on_validation_epoch_end()


def test_a_turn_gets_an_optimiser_for_its_parameters_alone(tiny):
    config = tiny("ssdu", learning_rate=0.02, plateau_factor=0.2, plateau_patience=3)
    method = config.build()
    (optimiser,), (schedule,) = Loop(method, config.training).configure_optimizers()
    moved = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    assert moved == {id(parameter) for parameter in method.network.parameters()}
    assert optimiser.param_groups[0]["lr"] == 0.02
    assert (schedule.factor, schedule.patience, schedule.mode) == (0.2, 3, "min")


def test_loop_hands_the_network_no_more_than_the_given_samples(tiny, validation):
    method = tiny("ssdu").build()
    seen: list[Measured] = []
    method.reconstruct = lambda given: seen.append(given) or torch.zeros(1, 32, 32, dtype=torch.complex64)
    Loop(method, tiny("ssdu").training).validation_step(validation[0], 0)
    assert seen[0] is not None
    assert not seen[0].kspace[0, 0][validation[0].held_out[0]].any()
