"""The studio as a page meets it: time to the first frame, size of frames, memory, and a kill.

    python tests/benchmarks/studio.py RUN [DRAWS]

RUN is a run of pictures. The studio is a process of its own. DRAWS times three pages draw at once.
"""

import hashlib
import json
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple


class Drawn(NamedTuple):
    first_frame_s: float
    seconds: float
    frames: int
    largest: int
    """Bytes of the largest frame."""


def events(address: str, request: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Yields the name of each event of a drawing, with its bytes."""
    origin = re.sub(r"(:\d+)/.*", r"\1", address)
    asked = urllib.request.Request(f"{address}draw", json.dumps(request).encode())
    asked.add_header("origin", origin)
    asked.add_header("content-type", "application/json")
    name = ""
    with urllib.request.urlopen(asked) as answer:
        for line in answer:
            if line.startswith(b"event: "):
                name = line[7:].decode().strip()
            elif line.startswith(b"data: "):
                yield name, len(line)


def draw(address: str, **request: Any) -> Drawn:
    began, first, sizes = time.perf_counter(), 0.0, []
    for name, size in events(address, request):
        if name == "frame":
            first = first or time.perf_counter() - began
            sizes.append(size)
    return Drawn(first, time.perf_counter() - began, len(sizes), max(sizes))


def resident_mb(process: subprocess.Popen) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1e3  # type: ignore[index]


def digest(folder: Path) -> str:
    files = sorted(it for it in folder.rglob("*") if it.is_file())
    return hashlib.sha256(b"".join(it.read_bytes() for it in files)).hexdigest()


def main(run: str, draws: str = "30") -> None:
    before = digest(Path(run))
    words = [sys.executable, "-m", "ddpm_jax.cli", "studio", run]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        address = re.search(r"http://\S+", serving.stdout.readline())[0]  # type: ignore[index]
        kind = {"run": run, "num": 64, "every": True}
        cold = draw(address, **kind, seed=0)
        warm = [draw(address, **kind, seed=seed) for seed in range(1, 6)]
        first = statistics.median(each.first_frame_s for each in warm)
        print(f"first frame: {cold.first_frame_s:.2f} s cold, {first:.2f} s warm (median of 5)")
        rate = max(each.frames / each.seconds for each in warm)
        largest = max(each.largest for each in warm) / 1e3
        print(f"frames a second: {rate:.1f} at most; largest frame: {largest:.1f} kB", flush=True)
        unseen = {**kind, "every": False}
        with ThreadPoolExecutor(3) as pool:
            for k in range(int(draws)):
                seeds = range(10 * k, 10 * k + 3)
                for _ in pool.map(lambda seed: draw(address, **unseen, seed=seed), seeds):
                    pass
                if k % max(1, int(draws) // 6) == 0:
                    print(f"after {3 * (k + 1)} draws: {resident_mb(serving):.0f} MB", flush=True)
        # In the middle of a chain.
        drawing = events(address, {**kind, "seed": 7})
        for _ in range(2):
            next(drawing)
        serving.send_signal(signal.SIGKILL)
    print("the run after a kill:", "unchanged" if digest(Path(run)) == before else "CHANGED")


if __name__ == "__main__":
    main(*sys.argv[1:])
