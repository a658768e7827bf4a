"""The standard streams: closed, left by their readers, full, or unable to print a name."""

import errno
import os
import subprocess
import sys

import pytest

from ddpm_jax import cli
from ddpm_jax.cli import streams

# A command that prints on both streams, and opens a file where a closed stream would have been.
SAYS = r"""
import sys
from ddpm_jax import cli

def run(words):
    for _ in range(int(words[0])):
        print("caf\\udce9 \u65e5")
    with open(words[1], "w") as file:
        for _ in range(int(words[0])):
            print("told \udce9", file=sys.stderr)
        sys.stderr.flush()
        assert sys.stdin.read() is not None
        file.write("kept")
    return 0

cli.COMMANDS["say"] = cli.Command(run, "", "")
sys.argv[1:] = ["say", *sys.argv[1:]]
sys.exit(cli.main())
"""


def said(redirects, path, count=1, **more):
    """The exit code of the command in a shell, what it printed, and what its file holds."""
    (path / "says.py").write_text(SAYS)
    line = f"{sys.executable} says.py {count} file {redirects}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        **more,
    )
    return done.returncode, done.stdout, done.stderr, (path / "file").read_text()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_closed_stream_costs_nothing_and_no_file_gets_its_words(closed, tmp_path):
    code, _, err, file = said(closed, tmp_path)
    assert (code, file) == (0, "kept")
    assert "Traceback" not in err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_name_is_printed(encoding, tmp_path):
    env = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"}
    code, out, err, _ = said("", tmp_path, env=env)
    assert code == 0, err
    assert out.startswith("caf\\udce9 ")
    assert err == "told \\udce9\n"


def test_a_reader_of_messages_that_leaves_ends_nothing(tmp_path):
    code, _, err, file = said("2>&1 >/dev/null | head -1", tmp_path, count=20_000)
    assert (code, file) == (0, "kept")
    assert err == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux alone has /dev/full")
def test_a_full_disk_loses_messages_without_a_word_and_results_with_one(tmp_path):
    assert said("2>/dev/full", tmp_path)[0] == 0
    code, _, err, _ = said(">/dev/full", tmp_path)
    assert code == 2
    last = "ddpm: the output can't be written: No space left on device; free some space there, or"
    assert err.splitlines()[-1].startswith(last)
    assert "Traceback" not in err


def test_streams_that_python_lacks_are_opened(monkeypatch):
    for name in ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__"):
        monkeypatch.setattr(sys, name, None)
    streams.prepare()
    print("nowhere")
    print("nowhere", file=sys.stderr)
    assert sys.stdin.read() == ""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "ENAMETOOLONG", "EMFILE"])
def test_an_answer_of_the_system_is_one_line(name, monkeypatch, capsys):
    code = getattr(errno, name)

    def run(words):
        raise OSError(code, os.strerror(code), "some/file")

    monkeypatch.setitem(cli.COMMANDS, "added", cli.Command(run, "", ""))
    assert cli.main(["added"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"ddpm: some/file: {os.strerror(code)}; ")
    assert err.count("\n") == 1


def test_an_error_of_a_library_is_no_answer_of_the_system(monkeypatch):
    def run(words):
        raise OSError("cannot identify image file")

    monkeypatch.setitem(cli.COMMANDS, "added", cli.Command(run, "", ""))
    with pytest.raises(OSError, match="cannot identify"):
        cli.main(["added"])


@pytest.mark.parametrize(("args", "code"), [((), 130), ((15,), 143), ((1,), 129)])
def test_the_exit_code_names_the_signal(args, code, monkeypatch):
    def run(words):
        raise KeyboardInterrupt(*args)

    monkeypatch.setitem(cli.COMMANDS, "added", cli.Command(run, "", ""))
    assert cli.main(["added"]) == code
