from __future__ import annotations

import threading

import pytest

from sansref.serving.gathering import Backlog, Work

pytestmark = pytest.mark.slow


def work(size=10):
    return Work(None, None, None, size)


@pytest.fixture
def blocked():
    """Start a call in a thread, check that it waits, and return a way to wait for its result."""

    def start(call, *given):
        result = []
        thread = threading.Thread(target=lambda: result.append(call(*given)), daemon=True)
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()

        def end():
            thread.join(5)
            assert not thread.is_alive()
            return result[0]

        return end

    return start


def test_images_come_out_in_order_and_none_after_the_last():
    backlog, images = Backlog(2, 100), [work(), work()]
    for image in images:
        backlog.put(image)
    backlog.end()
    assert [backlog.take(), backlog.take(), backlog.take()] == [*images, None]


def test_the_third_image_waits(blocked):
    backlog, last = Backlog(2, 100), work(7)
    backlog.put(work())
    backlog.put(work())
    put = blocked(backlog.put, last)
    backlog.take()
    put()
    backlog.take()
    assert backlog.take() is last


def test_whoever_takes_waits_for_the_next(blocked):
    backlog, image = Backlog(2, 100), work()
    take = blocked(backlog.take)
    backlog.put(image)
    assert take() is image


def test_a_line_waits_until_the_image_in_work_is_done(blocked):
    backlog = Backlog(2, 100)
    backlog.put(work(60))
    assert backlog.wait_for_room(30)
    wait = blocked(backlog.wait_for_room, 50)
    backlog.take()
    assert not backlog._waiting  # in work, and still in memory
    wait_again = blocked(backlog.wait_for_room, 50)
    take = blocked(backlog.take)
    assert wait()
    assert wait_again()
    backlog.end()
    assert take() is None


def test_a_line_never_waits_for_nothing():
    assert Backlog(2, 100).wait_for_room(1000)


def test_what_is_dropped_lets_everybody_go(blocked):
    backlog = Backlog(1, 100)
    backlog.put(work(60))
    put, wait = blocked(backlog.put, work()), blocked(backlog.wait_for_room, 50)
    backlog.drop()
    put()
    assert not wait()
    assert backlog.take() is None
