import signal
import subprocess
import sys
import threading

import pytest

from ddpm_jax.training.preemption import PreemptionHandler

# It ends by itself, so that a line that never comes fails a test and leaves none waiting.
WAITS = """
import os, threading
from ddpm_jax.training.preemption import PreemptionHandler

threading.Timer(20, os._exit, [9]).start()
with PreemptionHandler(lambda line: print(line, flush=True)) as stop:
    print("ready", flush=True)
    while stop.signal is None or stop.signal == 2:
        threading.Event().wait(0.05)
print("left after signal", stop.signal, flush=True)
os._exit(0)
"""


@pytest.fixture
def process():
    with subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None
        assert it.stdout.readline() == "ready\n"
        yield it
        it.kill()


def test_a_second_sigint_ends_at_once(process):
    process.send_signal(signal.SIGINT)
    assert "once more ends at once, without saving" in process.stdout.readline()
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == -signal.SIGINT


def test_a_sigterm_is_granted(process):
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "saving after this step\n"
    assert process.stdout.readline() == f"left after signal {signal.SIGTERM.value}\n"
    assert process.wait(timeout=10) == 0


def test_a_signal_in_the_middle_of_a_line_is_told_after_it():
    printing, told = threading.Lock(), []

    def say(line):
        if not printing.acquire(timeout=10):
            raise RuntimeError("a thread that prints can't print, as of Python's buffered files")
        told.append(line)
        printing.release()

    with PreemptionHandler(say) as stop, printing:
        signal.raise_signal(signal.SIGTERM)
        assert stop.reached()
        assert not told
    assert told == ["saving after this step"]
