"""Images of one client whose lines are complete, on their way to the network."""

from __future__ import annotations

import threading
from collections import deque

from sansref.serving.intake import Work


class Backlog:
    """A bounded queue between the thread that receives lines and the one that sends images.

    The receiving thread waits where there is no room, so that the system in the end makes the client wait.

    Parameters
    ----------
    images
        Images that may wait.
    most_bytes
        Of lines that may be held: those that wait, that of the image in work, and those of images still incomplete.
    """

    def __init__(self, images: int, most_bytes: int) -> None:
        self._images, self._most_bytes = images, most_bytes
        self._changed = threading.Condition()
        self._waiting: deque[Work] = deque()
        self._in_work = 0
        self._ended = self._dropped = False

    def wait_for_room(self, held: int) -> bool:
        """Wait until a line has room beside ``held`` bytes of incomplete images; False if nobody will take it."""
        with self._changed:
            self._changed.wait_for(lambda: self._dropped or not self._bytes or held + self._bytes < self._most_bytes)
            return not self._dropped

    def put(self, work: Work) -> None:
        """Wait for room and add an image; it is forgotten where nobody will take it."""
        with self._changed:
            self._changed.wait_for(lambda: self._dropped or len(self._waiting) < self._images)
            if not self._dropped:
                self._waiting.append(work)
                self._changed.notify_all()

    def take(self) -> Work | None:
        """Wait for the next image, the one before being done; None after the last."""
        with self._changed:
            self._in_work = 0
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._ended or self._dropped)
            if not self._waiting:
                return None
            work = self._waiting.popleft()
            self._in_work = work.bytes
            self._changed.notify_all()
            return work

    def end(self) -> None:
        """Nothing more will be put in."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def drop(self) -> None:
        """Forget what waits: nobody will take it."""
        with self._changed:
            self._dropped = True
            self._waiting.clear()
            self._changed.notify_all()

    @property
    def dropped(self) -> bool:
        """Whether nobody will take anything any more."""
        return self._dropped

    @property
    def _bytes(self) -> int:
        return self._in_work + sum(work.bytes for work in self._waiting)
