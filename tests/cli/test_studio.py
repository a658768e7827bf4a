"""`ddpm studio`: what it prints, and what it refuses."""

import re
import signal
import socket
import subprocess
import sys
import urllib.request

from ddpm_jax import cli


def refused(capsys, *words):
    assert cli.main(["studio", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_it_serves_its_page_until_it_is_stopped(tmp_path):
    words = [sys.executable, "-m", "ddpm_jax.cli", "studio", str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout is not None
            address = re.search(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/", serving.stdout.readline())
            assert address
            with urllib.request.urlopen(address[0]) as page:
                assert b"<title>ddpm studio</title>" in page.read()
            serving.send_signal(signal.SIGINT)
            assert serving.wait(60) in (0, 130)
        finally:
            serving.kill()


def test_what_can_not_be_served_is_refused(capsys, tmp_path, monkeypatch):
    assert "nowhere is not a folder" in refused(capsys, "nowhere")
    assert "--port is 70000" in refused(capsys, str(tmp_path), "--port", "70000")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        line = refused(capsys, str(tmp_path), "--port", str(other.getsockname()[1]))
    assert "choose another --port" in line
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    line = refused(capsys, str(tmp_path))
    assert line == (
        'ddpm: ddpm studio needs uvicorn, which is not installed: pip install "ddpm_jax[studio]"'
    )
