from __future__ import annotations

import threading
import time

import pytest

from sansref.serving import engine as turns
from sansref.serving.engine import Turns, UnwantedError
from sansref.serving.messages import ClientError
from sansref.serving.options import cost

QUICK, LONG = 1.0, 1e8


def always():
    return True


def endless(begun=None, caught=()):
    """Computes for ever, and once in between catches whatever it may."""
    if begun is not None:
        begun.set()
    try:
        while True:
            sum(range(100))
    except caught:
        pass
    while True:
        sum(range(100))


@pytest.fixture
def apart():
    """Call in a thread, and return a way to wait for what came of it, a result or an error."""

    def start(call, *given):
        came = []

        def work():
            try:
                came.append(call(*given))
            except Exception as error:
                came.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()

        def end():
            thread.join(20)
            assert not thread.is_alive()
            return came[0]

        return end

    return start


def no_computation_is_left():
    return not any(thread.name == "reconstruct" for thread in threading.enumerate())


def test_results_and_errors_come_out():
    lanes = Turns(10)
    assert lanes.run(QUICK, lambda: 7, always) == 7
    with pytest.raises(ZeroDivisionError):
        lanes.run(QUICK, lambda: 1 / 0, always)
    assert lanes.run(QUICK, lambda: 8, always) == 8


@pytest.mark.parametrize("caught", [(), Exception])
def test_what_takes_too_long_is_broken_off_and_the_next_has_its_turn(caught):
    lanes = Turns(0.5)
    with pytest.raises(ClientError, match=r"not done after 0\.5 s"):
        lanes.run(QUICK, lambda: endless(caught=caught), always)
    assert no_computation_is_left()
    assert lanes.run(QUICK, lambda: 7, always) == 7


def test_a_computation_that_swallows_its_end_is_told_again():
    lanes = Turns(0.5)
    with pytest.raises(ClientError):
        lanes.run(QUICK, lambda: endless(caught=BaseException), always)
    assert no_computation_is_left()


def test_what_nobody_wants_is_broken_off(apart):
    lanes, begun, wanted = Turns(60), threading.Event(), [True]
    end = apart(lanes.run, QUICK, lambda: endless(begun), lambda: wanted[0])
    assert begun.wait(5)
    wanted.clear()
    wanted.append(False)
    assert isinstance(end(), UnwantedError)
    assert no_computation_is_left()


def test_what_nobody_wants_leaves_the_queue(apart):
    lanes, begun, free = Turns(60), threading.Event(), threading.Event()
    first = apart(lanes.run, QUICK, lambda: begun.set() or free.wait(10), always)
    assert begun.wait(5)
    with pytest.raises(UnwantedError):
        lanes.run(QUICK, lambda: pytest.fail("it has begun"), lambda: False)
    last = apart(lanes.run, QUICK, lambda: 3, always)
    free.set()
    assert (first(), last()) == (True, 3)


def test_images_come_in_the_order_in_which_they_were_asked_for(apart):
    lanes, order, free, begun = Turns(60), [], threading.Event(), threading.Event()
    ends = [apart(lanes.run, QUICK, lambda: begun.set() or free.wait(10), always)]
    assert begun.wait(5)
    for number in range(5):
        ends.append(apart(lanes.run, QUICK, lambda number=number: order.append(number), always))
        time.sleep(0.05)
    free.set()
    for end in ends:
        end()
    assert order == list(range(5))


def test_a_quick_image_does_not_wait_for_a_long_one_and_long_ones_wait_for_each_other(apart):
    lanes, begun, free, second = Turns(600), threading.Event(), threading.Event(), threading.Event()
    long = apart(lanes.run, LONG, lambda: begun.set() or free.wait(20), always)
    assert begun.wait(5)
    other = apart(lanes.run, LONG, second.set, always)
    assert lanes.run(QUICK, lambda: 7, always) == 7
    assert not second.is_set()
    free.set()
    long()
    other()
    assert second.is_set()


def test_what_will_surely_take_too_long_is_not_begun():
    with pytest.raises(ClientError, match="it would take about") as caught:
        Turns(10).run(1e9, lambda: pytest.fail("it has begun"), always)
    assert caught.value.option == "max_seconds"


def test_the_expectation_follows_what_images_take(monkeypatch):
    lanes = Turns(60)
    before = lanes._rate * 1e6
    lanes.run(1e4, lambda: time.sleep(0.1), always)
    assert lanes._rate * 1e6 == before  # too short to tell
    for number in range(1, 3):
        lanes.run(1e4, lambda: time.sleep(1.1), always)
        # One image that takes a hundred times as long as it should must not have all others refused.
        assert lanes._rate * 1e6 == pytest.approx(1.2**number * before)


def test_closing_waits_for_the_image_in_work(apart):
    lanes, begun, done = Turns(60), threading.Event(), []
    end = apart(lanes.run, QUICK, lambda: begun.set() or time.sleep(0.5) or done.append(1), always)
    assert begun.wait(5)
    lanes.close()
    assert done
    end()


def test_coils_cost_their_square_and_pixels_themselves():
    assert cost(2000, 1) == 2 * cost(1000, 1)
    assert cost(1000, 1) < cost(1000, 4) < cost(1000, 16)
    assert cost(1000, 128) > 50 * cost(1000, 8)
    assert cost(64, 1, 100_000) > 50 * cost(64, 1, 8)
    assert turns.SURELY >= 1
