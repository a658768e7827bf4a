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
    stop.begin()
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


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"])
def test_a_signal_is_granted(process, name):
    number = getattr(signal, name)
    process.send_signal(number)
    assert process.stdout.readline() == "saving after this step\n"
    assert process.stdout.readline() == f"left after signal {number.value}\n"
    assert process.wait(timeout=10) == 0


def test_a_signal_in_the_middle_of_a_line_is_told_after_it():
    printing, told = threading.Lock(), []

    def say(line):
        if not printing.acquire(timeout=10):
            raise RuntimeError("a thread that prints can't print, as of Python's buffered files")
        told.append(line)
        printing.release()

    with PreemptionHandler(say) as stop, printing:
        stop.begin()
        signal.raise_signal(signal.SIGTERM)
        assert stop.reached()
        assert not told
    assert told == ["saving after this step"]


ALL = [
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),
]


@pytest.mark.parametrize("number", ALL)
def test_with_nothing_to_save_a_signal_is_an_interrupt(number):
    with PreemptionHandler(print), pytest.raises(KeyboardInterrupt) as told:
        signal.raise_signal(number)
    assert told.value.args == (number,)


@pytest.mark.parametrize("number", ALL)
def test_what_handles_signals_is_as_it_was_in_the_end_and_default_while_compiling(number):
    before = signal.getsignal(number)
    with PreemptionHandler(print) as stop:
        assert signal.getsignal(number) == stop._handle
        with stop.at_once():
            assert signal.getsignal(number) == signal.SIG_DFL
        assert signal.getsignal(number) == stop._handle
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("other", [signal.SIG_IGN, lambda number, frame: None])
def test_a_warning_that_others_handle_or_ignore_stays_theirs(other):
    plain = signal.signal(signal.SIGHUP, other)
    try:
        with PreemptionHandler(print) as stop:
            assert signal.getsignal(signal.SIGHUP) == other
            with stop.at_once():
                assert signal.getsignal(signal.SIGHUP) == other
    finally:
        signal.signal(signal.SIGHUP, plain)


def test_outside_the_main_thread_no_signal_is_handled():
    before, found = {each: signal.getsignal(each) for each in ALL}, []

    def work():
        with PreemptionHandler(print) as stop:
            with stop.at_once():
                stop.begin()
            found.append(({each: signal.getsignal(each) for each in ALL}, stop.reached()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(before, False)]
