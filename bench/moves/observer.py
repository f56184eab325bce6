"""Looks from outside at whether a program goes on, through a page that it shares.

memwork counts its page writes in the first eight bytes of its --stats file. The file lies on a
volume, so it is the same one wherever the program runs, and the clock is this process's own.
"""

import mmap
import struct
import threading
import time

POLL_S = 0.0003
BLINK_S = 0.5  # half of the lease: less is no outage


class Watcher:
    """One thread for all observers: one for each would take a third of a small machine from the programs."""

    def __init__(self):
        self.lock = threading.Lock()
        self.observers = []
        self.thread = None

    def add(self, observer):
        with self.lock:
            self.observers.append(observer)
            if self.thread is None:
                self.thread = threading.Thread(target=self._watch, daemon=True)
                self.thread.start()

    def remove(self, observer):
        with self.lock:
            self.observers.remove(observer)

    def _watch(self):
        while True:
            time.sleep(POLL_S)  # the resolution of what is measured
            with self.lock:
                if not self.observers:
                    self.thread = None
                    return
                for observer in self.observers:
                    observer.look()


WATCHER = Watcher()


class Observer:
    """Notes when the counter moves. Times are seconds of this machine's monotonic clock."""

    def __init__(self, path):
        self.file = open(path, "r+b")
        self.page = mmap.mmap(self.file.fileno(), 4096)
        self.lock = threading.Lock()
        self.since = time.monotonic()
        self.last = self.writes()
        self.reset()
        WATCHER.add(self)

    def reset(self):
        with self.lock:
            self.longest = (0.0, self.since, self.since)  # seconds, from, to

    def look(self):
        now, value = time.monotonic(), self.writes()
        if value == self.last:
            return
        with self.lock:
            if now - self.since > self.longest[0]:
                self.longest = (now - self.since, self.since, now)
            self.since, self.last = now, value

    def writes(self):
        return struct.unpack_from("<Q", self.page, 0)[0]

    def gap_ms(self):
        """The longest time without a write since reset()."""
        with self.lock:
            return self.longest[0] * 1000

    def first_after(self, moment):
        """When the program wrote again after it had stood still for more than a blink since `moment`."""
        with self.lock:
            stood_s, _, again = self.longest
            return again if again > moment and stood_s > BLINK_S else None

    def close(self):
        WATCHER.remove(self)
        self.page.close()
        self.file.close()
