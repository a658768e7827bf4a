"""A tiny run on pictures, one on points, and a studio that serves both at a port."""

import threading
import time
from types import SimpleNamespace

import httpx
import jax
import pytest
import uvicorn

from ddpm_jax.config import Choice, MlpConfig, OptimizerConfig, PointsData
from ddpm_jax.studio.library import Library
from ddpm_jax.studio.server import make_app
from ddpm_jax.training.train import train
from tests.tiny import TINY, UNET, changed

TOKEN = "a-token"
POINTS = changed(
    TINY,
    train={"label_dropout": 0.0, "steps": 4, "averages": {"ema": Choice("ema", decay=0.9)}},
    sample={"clipping": "none", "num": 16, "steps": None},
)


@pytest.fixture(scope="session")
def runs(tmp_path_factory, request):
    """The folder of the runs `pictures` and `points`, beside a secret."""
    folder = tmp_path_factory.mktemp("studio")
    (folder / "secret").mkdir()
    (folder / "secret" / "config.json").write_text("{}")
    # Seen in a browser, classes and guidance must make a difference to the eye.
    base = UNET if request.config.getoption("--long") else TINY
    pictures = changed(base, train={"steps": 8, "preview_every": 4}, sample={"num": 4, "steps": 5})
    plain = {"data": PointsData(size=100), "model": MlpConfig(width=16)}
    points = changed(POINTS, train={"preview_every": None}, sample={"num": 100})
    points = points.__class__(
        **{**vars(points), **plain, "optimizer": OptimizerConfig(learning_rate=1e-2)}
    )
    with pytest.MonkeyPatch.context() as patch:  # Eight devices compile twice as long.
        first = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda: first)
        for name, config in {"pictures": pictures, "points": points}.items():
            train(config, folder / "runs" / name)
    return folder / "runs"


@pytest.fixture(scope="session")
def server(runs):
    """The studio over those runs: its `url`, and the `studio` behind it."""
    config = uvicorn.Config(None, port=0, log_level="error", lifespan="off", ws="none")  # type: ignore
    socket = config.bind_socket()
    port = socket.getsockname()[1]
    app = make_app(Library([runs]), token=TOKEN, port=port)
    config.app = app
    config.load()
    serving = uvicorn.Server(config)
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    while not serving.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{port}/{TOKEN}"
    origin = {"origin": f"http://127.0.0.1:{port}"}
    with httpx.Client(base_url=url, headers=origin, timeout=120) as client:
        yield SimpleNamespace(url=url, port=port, client=client, studio=app.app.state.studio)
    serving.should_exit = True
    thread.join()
