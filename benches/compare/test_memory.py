"""Tests of what is read of an idle process: `python3 -m unittest discover -s benches/compare`."""

import os
import threading
import time
import unittest
from types import SimpleNamespace

from bed import Process, eventually
from memory import woken


def own():
    """This process, as one of the bed."""
    return Process("test", SimpleNamespace(pid=os.getpid()), None)


def work(ns):
    """Keeps a processor busy for so many nanoseconds of this thread."""
    end = time.thread_time_ns() + ns
    while time.thread_time_ns() < end:
        pass


class Idle(unittest.TestCase):
    def test_the_time_of_a_thread_that_has_ended_still_counts(self):
        process, spent = own(), 20_000_000
        before = process.cpu_ns()
        thread = threading.Thread(target=work, args=(spent,))
        thread.start()
        thread.join()
        self.assertGreaterEqual(process.cpu_ns() - before, spent)

    def test_a_thread_is_counted_while_it_lives(self):
        process, go = own(), threading.Event()
        thread = threading.Thread(target=go.wait)
        thread.start()
        self.assertIn(str(thread.native_id), process.switches())
        go.set()
        thread.join()
        # The kernel takes a moment longer than the interpreter.
        eventually("end of the thread", lambda: str(thread.native_id) not in process.switches())
        self.assertIn(str(os.getpid()), process.switches())

    def test_wake_ups_are_those_of_threads_that_stayed_and_of_new_ones(self):
        self.assertEqual(woken({"1": 100, "2": 7}, {"1": 103, "2": 7}), 3)
        self.assertEqual(woken({"1": 100, "2": 7}, {"1": 101}), 1, "what the one that ended had is not taken off")
        self.assertEqual(woken({"1": 100}, {"1": 100, "3": 4}), 4, "a new one began with none")


if __name__ == "__main__":
    unittest.main()
