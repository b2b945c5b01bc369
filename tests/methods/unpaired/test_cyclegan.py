"""CycleGAN, and what its descendants have in common with it: turns, the shared step, health."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sansref.methods import ISCL, CycleGAN, ImagePair, Method, Needs, SwitchableISCL
from sansref.networks.norms import BatchInstanceNorm
from sansref.training.config import RunConfig

KINDS = {"cyclegan": CycleGAN, "iscl": ISCL, "switchable": SwitchableISCL}
MOVED = {
    "discriminator": {"discriminators"},
    "generator": {"generators"},
    "extractor": {"extractor"},
}

Build = Callable[..., Any]


@pytest.fixture
def build(tiny: Callable[..., Any]) -> Build:
    """A small method: ``build("iscl", cycle_weight=5.0)``."""
    return lambda name="cyclegan", **changes: tiny(name, **changes).build()


def test_weights_and_optimiser_are_those_of_its_authors_and_do_not_reach_iscl() -> None:
    config, descendant = (RunConfig.from_values({"method": name}) for name in ("cyclegan", "iscl"))
    assert (config.options.cycle_weight, config.options.identity_weight, config.options.gan) == (10, 5, "lsgan")
    assert (config.training.optimizer, config.training.learning_rate) == ("adam", 2e-4)
    assert (descendant.options.cycle_weight, descendant.options.identity_weight) == (30, 0)
    assert (descendant.training.optimizer, descendant.training.learning_rate) == ("radam", 1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_turns_move_every_network_once(build: Build, name: str) -> None:
    method = build(name)
    expected = ["discriminator", "generator", "extractor"][: 2 if name == "cyclegan" else 3]
    assert [turn.name for turn in method.turns] == expected
    assert {turn.name for turn in method.turns if turn.averaged} == {"generator"}
    assert {turn.name for turn in method.turns if turn.lookahead} == set(expected) - {"generator"}
    moved = [id(parameter) for turn in method.turns for parameter in turn.parameters]
    assert len(moved) == len(set(moved))
    assert set(moved) == {id(parameter) for parameter in method.parameters()}
    assert method.needs is Needs.UNPAIRED
    assert type(method) is KINDS[name]


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", KINDS)
def test_a_turn_moves_its_own_networks_and_nothing_else(make: Any, build: Build, name: str, size: int) -> None:
    method, batch = build(name), make.pictures(size)
    for turn in method.turns:
        before = copy.deepcopy(method.state_dict())
        make.play(method, batch, [turn.name])
        after = method.state_dict()
        changed = {name for name in after if not torch.equal(before[name], after[name])}
        own = {name for name in after if name.split(".")[0] in MOVED[turn.name]}
        assert changed <= own
        kernels = {name for name in own if after[name].ndim == 4}
        assert kernels
        assert kernels <= changed


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", KINDS)
def test_a_step_can_follow_a_step_on_the_same_batch(make: Any, build: Build, name: str, size: int) -> None:
    """The second one starts from the networks as they are then."""
    method, batch = build(name), make.pictures(size)
    first, second = make.play(method, batch), make.play(method, batch)
    assert all(second[turn] != first[turn] for turn in first)
    fresh = build(name)
    fresh.load_state_dict(method.state_dict())
    assert make.play(method, batch) == make.play(fresh, batch)


@pytest.mark.parametrize("name", KINDS)
def test_a_step_is_not_taken_over_to_another_batch(make: Any, build: Build, name: str) -> None:
    """Nor to one of the same content, which is another object."""
    method, other = build(name), build(name)
    first, second = make.pictures(seed=0), make.pictures(seed=1)
    make.loss(method, "discriminator", first)
    found = [float(make.loss(method, turn.name, second)[0].detach()) for turn in method.turns]
    assert found == [float(make.loss(other, turn.name, second)[0].detach()) for turn in other.turns]


@pytest.mark.parametrize("name", KINDS)
def test_both_images_are_translated_once_for_the_turns_before_the_extractors(
    make: Any, build: Build, name: str
) -> None:
    method, batch = build(name), make.pictures()
    calls: list[Tensor] = []
    original = method.generators.full
    method.generators.full = lambda image: calls.append(image) or original(image)
    updates = method.step(batch)
    next(updates), next(updates)  # the extractor's turn looks at the moved generators again
    assert sum(image is batch.undersampled for image in calls) == 1


@pytest.mark.parametrize("name", KINDS)
def test_a_method_can_be_copied_and_sent_to_other_processes_after_a_step(make: Any, build: Build, name: str) -> None:
    """Where processes are spawned, those that make batches get the method with every epoch."""
    method = build(name)
    make.play(method, make.pictures())
    for again in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        assert all(torch.equal(value, method.state_dict()[key]) for key, value in again.state_dict().items())


@pytest.mark.parametrize("name", KINDS)
def test_mixtures_are_brought_back_after_the_turn_that_moves_them(make: Any, build: Build, name: str) -> None:
    method = build(name)

    def mixtures(network: nn.Module) -> list[nn.Parameter]:
        return [module.rho for module in network.modules() if isinstance(module, BatchInstanceNorm)]

    updates = method.step(make.pictures())
    turn, _, _ = next(updates)
    while turn is not None:
        (network,) = (getattr(method, part) for part in MOVED[turn.name])
        with torch.no_grad():
            for index, rho in enumerate(mixtures(network)):
                rho.fill_((-0.5, 1.5, 0.25)[index % 3])
        following = next(updates, None)
        assert {value for rho in mixtures(network) for value in rho.tolist()} <= {0.0, 1.0, 0.25}
        turn = None if following is None else following.turn


@pytest.mark.parametrize("gan", ["lsgan", "hinge"])
@pytest.mark.parametrize("size", [1, 2])
def test_discriminators_tell_real_from_made(make: Any, build: Build, gan: str, size: int) -> None:
    method, (x, y, mask, noise, *_) = build(gan=gan), make.pictures(size)
    loss, parts = make.loss(method, "discriminator", ImagePair(x, y, mask, noise))
    of_full, of_under = method.discriminators.of_full, method.discriminators.of_undersampled
    judged = {
        "d_full_real": of_full(y),
        "d_full_fake": of_full(method.generators.restorer(x)),
        "d_under_real": of_under(x),
        "d_under_fake": of_under(method.generators.degrader(y)),
    }
    if gan == "lsgan":
        expected = sum(make.lsgan(judgement, int(name.endswith("real"))) for name, judgement in judged.items())
    else:
        margins = [1 - judgement if name.endswith("real") else judgement for name, judgement in judged.items()]
        expected = sum(float(margin.detach().clamp(min=0).mean()) for margin in margins)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert parts.keys() == {*judged, "d_spread"}
    for name, judgement in judged.items():
        assert float(parts[name]) == pytest.approx(float(judgement.detach().mean()), abs=1e-6)
    everything = torch.cat([judged["d_full_real"], judged["d_full_fake"]])
    assert float(parts["d_spread"]) == pytest.approx(float(everything.detach().std()), rel=1e-5)
    assert not any(part.requires_grad for part in parts.values())


@pytest.mark.parametrize("gan", ["lsgan", "hinge"])
@pytest.mark.parametrize("weight", [30.0, 0.5])
def test_generators_fool_and_undo_each_other(make: Any, build: Build, gan: str, weight: float) -> None:
    method, batch = build(gan=gan, cycle_weight=weight, identity_weight=0.0), make.pictures(2)
    x, y = batch.undersampled, batch.full
    loss, parts = make.loss(method, "generator", batch)
    restorer, degrader = method.generators.restorer, method.generators.degrader
    restored, degraded = restorer(x), degrader(y)
    judged = [method.discriminators.of_full(restored), method.discriminators.of_undersampled(degraded)]
    fooled = sum(
        make.lsgan(judgement, 1) if gan == "lsgan" else -float(judgement.detach().mean()) for judgement in judged
    )
    cycle = make.l1(degrader(restored), x) + make.l1(restorer(degraded), y)
    assert float(loss.detach()) == pytest.approx(fooled + weight * cycle, rel=1e-5)
    assert parts.keys() == {"adversarial", "cycle", "output_spread", "sampling_residual"}
    assert float(parts["adversarial"]) == pytest.approx(fooled, rel=1e-4)
    assert float(parts["cycle"]) == pytest.approx(cycle, rel=1e-5)
    assert float(parts["output_spread"]) == pytest.approx(float(restored.detach().std()), rel=1e-5)
    assert not any(part.requires_grad for part in parts.values())


def test_what_is_in_a_domain_already_stays_on_demand(make: Any, build: Build) -> None:
    method, plain, batch = build(identity_weight=0.7), build(identity_weight=0.0), make.pictures(2)
    plain.load_state_dict(method.state_dict())
    x, y = batch.undersampled, batch.full
    kept = make.l1(method.generators.restorer(y), y) + make.l1(method.generators.degrader(x), x)
    loss, parts = make.loss(method, "generator", batch)
    without, _ = make.loss(plain, "generator", batch)
    assert float(parts["identity"]) == pytest.approx(kept, rel=1e-5)
    assert float(loss.detach() - without.detach()) == pytest.approx(0.7 * kept, rel=1e-4)


@pytest.mark.parametrize("complex", [False, True])
@pytest.mark.parametrize(("norm", "power"), [("backward", 1), ("ortho", 1), ("backward", 2)])
def test_translations_keep_acquired_samples_on_demand(
    make: Any, build: Build, complex: bool, norm: str, power: int
) -> None:
    network, batch = {"complex": complex}, make.pictures(2, channels=1 + complex)
    settings = {"sampling_weight": 0.7, "sampling_norm": norm, "sampling_power": power}
    method, plain = build(network=network, **settings), build(network=network)
    plain.load_state_dict(method.state_dict())
    x, y, mask, _, *_ = batch
    restored, degraded = method.generators.restorer(x), method.generators.degrader(y)
    expected = make.kspace_error(x, restored, mask, norm, power) + make.kspace_error(y, degraded, mask, norm, power)
    loss, parts = make.loss(method, "generator", batch)
    assert float(parts["sampling"]) == pytest.approx(expected, rel=1e-4)
    without = float(make.loss(plain, "generator", batch)[0].detach())
    assert float(loss.detach()) - without == pytest.approx(0.7 * expected, rel=1e-3)


@pytest.mark.parametrize("complex", [False, True])
def test_the_residual_on_the_acquired_samples_is_relative_to_the_image(make: Any, build: Build, complex: bool) -> None:
    method, batch = build(network={"complex": complex}), make.pictures(channels=1 + complex)
    x, _, mask, _, *_ = batch
    black = torch.zeros_like(x) if complex else -torch.ones_like(x)
    _, parts = make.loss(method, "generator", batch)
    expected = make.kspace_error(x, method.generators.restorer(x), mask) / make.kspace_error(x, black, mask)
    assert float(parts["sampling_residual"]) == pytest.approx(expected, rel=1e-4)


def test_a_blank_image_has_no_residual(make: Any, build: Build) -> None:
    x, y, mask, noise, *_ = make.pictures()
    _, parts = make.loss(build(), "generator", ImagePair(torch.full_like(x, -1), y, mask, noise))
    assert float(parts["sampling_residual"]) == 0


def test_generators_face_the_discriminators_as_they_are_after_their_turn(make: Any, build: Build) -> None:
    method, batch = build(), make.pictures()
    before = float(make.loss(method, "generator", batch)[1]["adversarial"])
    make.play(method, batch, ["discriminator"])
    _, parts = make.loss(method, "generator", batch)
    restored, degraded = method.generators.restorer(batch.undersampled), method.generators.degrader(batch.full)
    judged = [method.discriminators.of_full(restored), method.discriminators.of_undersampled(degraded)]
    assert float(parts["adversarial"]) == pytest.approx(sum(make.lsgan(one, 1) for one in judged), rel=1e-5)
    assert float(parts["adversarial"]) != pytest.approx(before, rel=1e-5)


def test_only_the_restorer_is_used_in_the_end(make: Any, build: Build) -> None:
    method, x = build(), make.pictures().undersampled
    assert torch.equal(method.restore(x), method.generators.restorer(x))


@pytest.mark.parametrize("name", KINDS)
def test_failures_are_named(build: Build, name: str) -> None:
    method = build(name)
    healthy = {"d_spread": 2e-4, "output_spread": 2e-3, "cycle": 0.5}
    assert method.failure(healthy) is None
    said = method.failure({**healthy, "d_spread": 9e-5})
    assert said == "the discriminator has collapsed: it judges everything alike (spread 9e-05)"
    assert method.failure({**healthy, "output_spread": 9e-4}) == "the generator's images are constant (spread 0.0009)"


@pytest.mark.parametrize("name", KINDS)
def test_failures_are_seen_in_what_the_losses_log(make: Any, build: Build, name: str) -> None:
    """Networks that have really collapsed, and ones that have not."""

    def logged(method: Method) -> dict[str, float]:
        turns = [make.loss(method, turn.name, make.pictures())[1] for turn in method.turns]
        return {part: float(value) for parts in turns for part, value in parts.items()}

    assert build(name).failure(logged(build(name))) is None
    for network, word in (("discriminators", "judges everything alike"), ("generators", "are constant")):
        method = build(name)
        for key, parameter in getattr(method, network).named_parameters():
            if ".out." in key:
                nn.init.zeros_(parameter)
        assert word in str(method.failure(logged(method)))
