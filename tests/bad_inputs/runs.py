"""Configs, runs, checkpoints and samples that are damaged, foreign or in doubt."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.bad_inputs.making import (
    CONFIGS,
    IMAGES,
    IMPORT,
    MINE,
    PNG,
    TRAP,
    Row,
    arrays,
    every,
    nothing,
    picture,
    put,
)

FILES = {
    "an empty config": Row(put("mine.py"), MINE, "has no get_config()"),
    "a config of nothing": Row(
        put("mine.py", "def get_config():\n    pass\n"), MINE, "returned NoneType, not a Config"
    ),
    "a config of noise": Row(put("mine.py", bytes(range(256))), MINE, "fix the file"),
    "a config of another language": Row(
        put("mine.yaml", "train:\n"), MINE.replace(".py", ".yaml"), "a config file ends in .py"
    ),
    "a config that fails": Row(
        put("mine.py", "def get_config():\n    return 1 / 0\n"), MINE, "mine.py:2: ZeroDivision"
    ),
    "a config that leaves Python": Row(
        put("mine.py", "import sys\ndef get_config():\n    sys.exit(0)\n"),
        MINE,
        "mine.py:3: SystemExit: 0; fix the file",
    ),
    "a smoke that is no table": Row(
        put("mine.py", f"{IMPORT}SMOKE = 3\ndef get_config():\n    return Config()\n"),
        f"{MINE} --smoke",
        "SMOKE is 3; it must be a dict of settings",
    ),
    "a config without its smoke": Row(
        put("mine.py", f"{IMPORT}def get_config():\n    return Config()\n"),
        f"{MINE} --smoke",
        "has no SMOKE",
    ),
    "a smoke of unknown settings": Row(
        put(
            "mine.py",
            f"{IMPORT}SMOKE = {{'train.step': 1}}\ndef get_config():\n    return Config()\n",
        ),
        f"{MINE} --smoke",
        "unknown setting train.step (did you mean train.steps?)",
    ),
    "a run's config that is a list": Row(
        put("run/config.json", "[]"), "info {here}/run", "it must be a table of settings"
    ),
    "a run's config of a number as its kind": Row(
        put("run/config.json", '{"model": {"kind": 5}}'),
        "info {here}/run",
        "model.kind is 5; it must be one of ",
    ),
    "a run's config of another kind": Row(
        put("run/config.json", '{"data": {"kind": "foldr"}}'),
        "info {here}/run",
        "did you mean folder?",
    ),
    "a run's config of another type": Row(
        put("run/config.json", '{"train": {"steps": "3"}}'),
        "info {here}/run",
        "config.json: train.steps is '3'; it must be int",
    ),
}

SAMPLE = "sample {here}/run --output {here}/x.png"


def checkpoint(damage: Callable[[Path], object]) -> Callable[[Path], object]:
    """Damages the only checkpoint of the run's copy."""
    return lambda here: damage(here / "run" / "checkpoints" / "2")


def largest(folder: Path) -> Path:
    """The file that holds the parameters."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return max((path for path in files if not path.name.startswith("_")), key=_size)


def _size(path: Path) -> int:
    return path.stat().st_size


def flip(folder: Path) -> None:
    data = bytearray(largest(folder).read_bytes())
    data[len(data) // 2] ^= 1
    largest(folder).write_bytes(data)


def halve(folder: Path) -> None:
    path = largest(folder)
    path.write_bytes(path.read_bytes()[: _size(path) // 2])


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def rewritten(name: str, **values: Any) -> Callable[[Path], object]:
    """Replaces values of a JSON file of the run's copy, with a checkpoint's checksum of it."""

    def make(here: Path) -> None:
        path = here / "run" / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
        sums = path.parent / "checksums.json"
        if sums.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            sums.write_text(json.dumps({**json.loads(sums.read_text()), path.name: digest}))

    return make


NEWER = rewritten("checkpoints/2/meta.json", format=99, versions={"ddpm_jax": "9.1"})
AGAIN = "train {here}/run"
LEFT = "no good checkpoint is left in {here}/run/checkpoints"
CHECKPOINTS = {
    "a flipped bit": Row(checkpoint(flip), SAMPLE, LEFT),
    "half a file": Row(checkpoint(halve), SAMPLE, LEFT),
    "a lost file": Row(checkpoint(lambda it: largest(it).unlink()), SAMPLE, LEFT),
    "a lost description": Row(checkpoint(lambda it: (it / "meta.json").unlink()), SAMPLE, LEFT),
    "a description that is no JSON": Row(
        checkpoint(lambda it: (it / "meta.json").write_text("{")), SAMPLE, LEFT
    ),
    "a pickle as description": Row(
        checkpoint(lambda it: (it / "meta.json").write_bytes(TRAP)), SAMPLE, LEFT
    ),
    "an empty checkpoint": Row(checkpoint(empty), SAMPLE, LEFT),
    "no checkpoints": Row(
        lambda here: shutil.rmtree(here / "run" / "checkpoints"), SAMPLE, "has no checkpoints"
    ),
    "going on from a flipped bit": Row(
        checkpoint(flip), f"train {CONFIGS}/swiss_roll.py --workdir {{here}}/run", LEFT
    ),
    "another seed": Row(nothing, f"{AGAIN} --seed 1", "holds a run with seed = 0, and this config"),
    "fewer steps than made": Row(
        nothing, f"{AGAIN} --train.steps 1", "{here}/run has made 2 steps, and train.steps is 1"
    ),
    "a checkpoint of a newer version": Row(
        NEWER, SAMPLE, "checkpoints/2 of ddpm_jax 9.1: format is 99, and ddpm_jax "
    ),
    "training on from a newer version": Row(NEWER, AGAIN, "of ddpm_jax 9.1: format is 99, and ddp"),
    "a config.json of a newer version": Row(
        rewritten("config.json", format=99), AGAIN, "run/config.json: format is 99, and ddpm_jax "
    ),
    "a config.json of NULs": Row(
        lambda here: (here / "run/config.json").write_bytes(b"\0" * 99), AGAIN, "is not valid JSON"
    ),
    "a config.json that is not UTF-8": Row(
        lambda here: (here / "run/config.json").write_bytes(b'{"\xff'), AGAIN, "is not valid JSON"
    ),
    "samples of a list": Row(
        put("s/samples.json", "[]"),
        "sample {here}/run --output {here}/s",
        "samples.json can't be read; choose another folder",
    ),
    "samples of NULs": Row(
        put("s/samples.json", b"\0\0\0"),
        "sample {here}/run --output {here}/s",
        "samples.json can't be read; choose another folder",
    ),
    "points as pictures": Row(
        nothing,
        "sample {here}/run --output {here}/s --format png",
        "the format png does not apply: it holds pictures, and these samples are points; draw them",
    ),
    "points for ADM's evaluator": Row(
        nothing,
        "sample {here}/run --output {here}/s.npz --format arr_0",
        "the format arr_0 does not apply: it holds pictures, and these samples are points; draw",
    ),
    "a folder that is not UTF-8": Row(
        nothing,
        f"train {CONFIGS}/swiss_roll.py --workdir {{here}}/caf\udce9",
        "path whose bytes are",
    ),
    "the home of nobody": Row(
        nothing, "sample ~nobody-at-all/run", "its ~ names no user's home; write the folder out"
    ),
    "a name that is too long": Row(nothing, f"sample {'x' * 300}", "File name too long; choose a"),
    "labels for a run without": Row(
        nothing, f"{SAMPLE} --num 1 --labels 0", "was trained without labels; leave them out"
    ),
    "guidance for a run without": Row(nothing, f"{SAMPLE} --guidance 1", "guidance"),
    "data of another shape": Row(
        nothing,
        f"train {CONFIGS}/digits.py --workdir {{here}}/run --smoke",
        "holds a run with",
    ),
}


def points(path: Path, classes: str) -> None:
    labels = np.array(list(classes))[np.arange(40) % len(classes)]
    np.savez(path, examples=np.ones((40, 2), np.float32), labels=labels)


LABELLED = put(
    "mine.py",
    f"{IMPORT}import pathlib\nPATH = str(pathlib.Path(__file__).parent / 'x.npz')\n"
    "def get_config():\n"
    "    model = MlpConfig(width=4, layers=1, num_classes=2)\n"
    "    data, sample = ArraysData(path=PATH, holds='points'), SampleConfig(clipping='none')\n"
    "    return Config(data=data, model=model, sample=sample)\n",
)
LABELLED_RUN = "train {here}/mine.py --workdir {here}/run --diffusion.timesteps 2"
OTHER_LABELS = {
    "a class that is another": Row(
        every(LABELLED, lambda here: points(here / "x.npz", "ac")),
        LABELLED_RUN,
        "{here}/run holds a run with data.classes.1 = 'b', and the data has 'c'",
    ),
    "a class that is new": Row(
        every(LABELLED, lambda here: points(here / "x.npz", "abc")),
        LABELLED_RUN,
        "{here}/run holds a run with data.classes = 2, and the data has 3",
    ),
}


def samples_of(num: int, size: int) -> Callable[[Path], object]:
    return arrays(samples=np.zeros((num, size), np.float32))


JUDGE = "evaluate {here}/x.npz --reference {here}/run"
LOOK_ALIKE = "evaluate {here}/set --reference {here}/set --metrics fid --features inception"
TWO = every(put("set/a.png", PNG), put("set/b.png", PNG))
EVALUATIONS = {
    "an evaluation of nothing": Row(
        nothing, "evaluate {here}/run --num 0", "the number of samples is 0"
    ),
    "an evaluation of all numbers": Row(
        nothing, "evaluate {here}/run --num 4294967296", "the labels of 4,294,967,296 samples need"
    ),
    "an evaluation of a wrong seed": Row(nothing, "evaluate {here}/run --seed -1", "seed is -1"),
    "an evaluation of too many steps": Row(
        nothing, "evaluate {here}/run --steps 9", "sample.steps is 9; it must be at most T"
    ),
    "a folder of a wrong seed": Row(
        nothing, "sample {here}/run --output {here}/new --seed -1", "seed is -1; it must be in"
    ),
    "a folder of too many steps": Row(
        nothing, "sample {here}/run --output {here}/new --steps 9", "sample.steps is 9; it must"
    ),
    "settings of data for statistics": Row(
        every(samples_of(9, 2), arrays("stats.npz", mu=np.zeros(2), sigma=np.eye(2))),
        "evaluate {here}/x.npz --reference {here}/stats.npz --data.split test",
        "stats.npz has statistics alone; leave out --data.split",
    ),
    "a checkpoint of stored samples": Row(
        samples_of(9, 2), f"{JUDGE} --checkpoint 4", "has samples, and no network; leave out --che"
    ),
    "samples without a reference": Row(
        samples_of(9, 2), "evaluate {here}/x.npz", "needs --reference with real examples"
    ),
    "one sample": Row(
        samples_of(1, 2), f"{JUDGE} --metrics coverage", "more than 5 real examples and samples"
    ),
    "a metric of runs for samples": Row(
        samples_of(9, 2),
        f"{JUDGE} --metrics bits_per_dim",
        "the metric bits_per_dim needs a run, and real",
    ),
    "a text as the terms of a bound": Row(
        put("x.npz", "hello"),
        "plot {here}/run bound --terms {here}/x.npz --output {here}/new.png",
        "x.npz can't be read as a .npz",
    ),
    "a folder of samples below a file": Row(
        put("f", "x"), "sample {here}/run --num 2 --output {here}/f/new", "can't be created"
    ),
    "samples of another shape": Row(samples_of(9, 3), JUDGE, "the samples are (3,), and the real"),
    "samples of numbers that are none": Row(
        arrays(samples=IMAGES), JUDGE, "has no samples, floats [N, …]"
    ),
    "a pickle as samples": Row(
        lambda here: (here / "x.npz").write_bytes(TRAP), JUDGE, "can't be read as a .npz"
    ),
    "pictures of two sizes": Row(
        every(TWO, put("set/c.png", picture(size=(4, 5)))),
        "evaluate {here}/set --reference {here}/run",
        "c.png is 5×4, and most are 4×4; give one size",
    ),
    "a reference that is nothing": Row(
        samples_of(9, 2), "evaluate {here}/x.npz --reference {here}/none", "none does not exist"
    ),
    "statistics of another size": Row(
        lambda here: np.savez(here / "k.npz", mu=np.zeros(3), sigma=np.eye(3)),
        "evaluate {here}/run --reference {here}/k.npz",
        "statistics have 3 dimensions, and these features 2",
    ),
    "statistics that are not finite": Row(
        lambda here: np.savez(here / "k.npz", mu=np.full(2, np.nan), sigma=np.eye(2)),
        "evaluate {here}/run --reference {here}/k.npz",
        "not finite; compute them again",
    ),
    "half a pair of statistics": Row(
        lambda here: np.savez(here / "k.npz", mu=np.zeros(2)),
        "evaluate {here}/run --reference {here}/k.npz",
        "can't be read as statistics mu and sigma",
    ),
    "weights that are not there": Row(TWO, f"{LOOK_ALIKE} --weights {{here}}/w.pth", "w.pth"),
    "a pickle as weights": Row(
        every(TWO, put("w.pth", TRAP)), f"{LOOK_ALIKE} --weights {{here}}/w.pth", "w.pth"
    ),
    "no weights at all": Row(TWO, LOOK_ALIKE, "pt_inception-2015-12-05-6726825d.pth"),
    "an option without its features": Row(
        nothing, "evaluate {here}/run --weights w.pth", "--weights is an option of --features"
    ),
    "a length without snapshots": Row(
        nothing, "evaluate {here}/run --ema_length 0.1", "ema_length needs snapshots, and"
    ),
    "an unknown metric": Row(nothing, "evaluate {here}/run --metrics fidd", "metrics is 'fidd'"),
    "unknown features": Row(nothing, "evaluate {here}/run --features x", "features is 'x'"),
    "a result of another kind": Row(
        nothing, "evaluate {here}/run --output {here}/x.txt", "its ending must be .json"
    ),
}
