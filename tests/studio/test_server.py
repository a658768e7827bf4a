"""What the studio answers, and whom it refuses; in a browser: `test_page.py`."""

import base64
import contextlib
import http.client
import io
import json
import math
import shlex
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import ddpm_jax.sampling.run as sampling
from ddpm_jax import cli
from ddpm_jax.studio.library import Library
from ddpm_jax.studio.server import make_app
from ddpm_jax.studio.streams import FRAME_SECONDS, MOST_STREAMS
from tests.studio.conftest import TOKEN

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture
def pictures(runs):
    return str(runs / "pictures")


def events(server, path, request):
    """The events of an answer, as pairs (name, data)."""
    found = server.client.post(path, json=request)
    assert found.status_code == 200, found.text
    assert found.headers["content-type"].startswith("text/event-stream")
    parts = [part.split("\n") for part in found.text.split("\n\n") if part]
    return [(name[7:], json.loads(data[6:])) for name, data in parts]


def refused(server, path, request):
    found = server.client.post(path, json=request)
    assert found.status_code == 400
    return found.json()["error"]


def board(url):
    """The pixels of a frame's picture."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))))


def test_runs_are_listed_and_nothing_beside_them(server, runs, pictures):
    rows = {row["name"]: row for row in server.client.get("runs").json()}
    found = {name for name in rows if not name.startswith("drawing ")}  # Of test_page.py, before.
    assert found == {pictures, str(runs / "points")}
    assert rows[pictures]["step"] == rows[pictures]["steps"] == 8
    about = server.client.get("about", params={"run": pictures}).json()
    assert about["shape"] == [8, 8, 1]
    assert about["checkpoints"] == [4, 8]
    assert about["classes"] == [*"0123456789"]
    progress = server.client.get("progress", params={"run": pictures}).json()
    assert [step for step, _ in progress["losses"]] == [4, 8]
    assert progress["previews"] == [4, 8]
    preview = server.client.get("preview", params={"run": pictures, "step": 4})
    assert preview.content == (runs / "pictures" / "samples" / "00000004.png").read_bytes()


def test_a_stream_shows_every_step_and_ends_at_the_samples_of_the_run(server, pictures, runs):
    request = {"run": pictures, "num": 4, "seed": 3, "settings": {"sampler": "ddim --eta 0.5"}}
    (start, about), *frames, (done, result) = events(server, "draw", request)
    assert (start, done) == ("start", "done")
    assert [(name, data["done"], data["of"]) for name, data in frames] == [
        ("frame", k, 5) for k in range(6)
    ]
    assert about["columns"] == 2
    drawn = sampling.load(pictures).sample(4, seed=3, sampler="ddim", eta=0.5)
    pixels = np.rint(np.clip(drawn.samples[..., 0], -1, 1) * 127.5 + 127.5).astype(np.uint8)
    expected = pixels.reshape(2, 2, 8, 8).swapaxes(1, 2).reshape(16, 16)
    last = frames[-1][1]
    for name in ("x", "x_0"):  # At t = 0 both are the samples.
        np.testing.assert_array_equal(board(last[name]), expected)
    assert frames[0][1]["x_0"] is None
    assert (board(frames[1][1]["x"]) != board(frames[1][1]["x_0"])).any()
    assert result["labels"] == ["0", "1", "2", "3"]
    whole = server.client.get("board", params={"result": result["result"]})
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(whole.content))), expected)
    saved = {
        kind: server.client.get("save", params={"result": result["result"], "kind": kind}).content
        for kind in ("png", "gif", "npz")
    }
    np.testing.assert_array_equal(np.load(io.BytesIO(saved["npz"]))["samples"], drawn.samples)
    assert Image.open(io.BytesIO(saved["gif"])).n_frames == 6  # type: ignore


def test_three_pages_at_once_get_their_own_samples_and_runs_are_only_read(server, pictures, runs):
    def state():
        files = [it for it in (runs / "pictures").rglob("*") if it.is_file()]
        return {it: (it.stat().st_mtime_ns, it.stat().st_size) for it in files}

    before = state()
    requests = [{"run": pictures, "num": 4, "seed": seed} for seed in (11, 12, 13)]
    with ThreadPoolExecutor(3) as pool:
        found = [*pool.map(lambda request: events(server, "draw", request), requests)]
    run = sampling.load(pictures)
    for request, told in zip(requests, found, strict=True):
        query = {"result": told[-1][1]["result"], "kind": "npz"}
        file = server.client.get("save", params=query).content
        expected = run.sample(4, seed=request["seed"]).samples
        np.testing.assert_array_equal(np.load(io.BytesIO(file))["samples"], expected)
    assert state() == before


def test_the_command_line_draws_the_same(server, pictures, tmp_path, monkeypatch):
    request = {"run": pictures, "num": 1, "first": 2, "seed": 5, "checkpoint": 4, "labels": ["7"]}
    request |= {"settings": {"guidance": 1.5, "guidance_interval": [-5.0, 4.0]}, "every": False}
    found = events(server, "draw", request)
    words = shlex.split(found[0][1]["command"])
    assert words[0] == "ddpm"
    monkeypatch.chdir(tmp_path)
    assert cli.main([*words[1:-1], "samples.npz"]) == 0
    by_command = np.load("samples.npz")["samples"][2]
    query = {"result": found[-1][1]["result"], "kind": "npz"}
    here = np.load(io.BytesIO(server.client.get("save", params=query).content))["samples"][0]
    # Batches of other sizes round otherwise.
    np.testing.assert_allclose(here, by_command, atol=1e-4)


def test_a_dropped_picture_is_inverted_and_inpainted(server, pictures):
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    kept = server.client.post("picture", params={"run": pictures}, content=file.getvalue())
    edit = {"run": pictures, "picture": [kept.json()["result"], 0], "num": 2}
    mask = [*range(32)]
    *_, (_, done) = events(server, "draw", {**edit, "how": "inpaint", "mask": mask})
    drawn = server.client.get("board", params={"result": done["result"]})
    both = np.asarray(Image.open(io.BytesIO(drawn.content)))
    np.testing.assert_array_equal(both[4:, :8], pixels[4:])
    assert (both[:4, :8] != both[:4, 8:]).any()
    found = events(server, "draw", {**edit, "how": "invert", "num": 1})
    assert [data["done"] for name, data in found if name == "frame"].count(0) == 2  # Up and down.
    (text,) = found[-1][1]["values"]
    assert "mean squared error" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num": 0}, "num is 0; it must be at least 1"),
        ({"num": 10**9}, "num is 1000000000; it must be at most 256"),
        ({"seed": -1}, "seed is -1"),
        ({"first": 2**40}, "first is 1099511627776"),
        ({"settings": {"steps": 21}}, "sample.steps is 21; it must be at most T, which is 20"),
        ({"settings": {"guidance": 1e300}}, "guidance is 1e+300; it must be a finite number"),
        ({"settings": {"batch_size": 4}}, "the studio has no setting batch_size"),
        ({"settings": {"sampler": "ddimm"}}, "did you mean ddim"),
        ({"labels": ["eleven"]}, "labels: there is no class eleven"),
        ({"checkpoint": 5}, "5"),
        ({"run": "../secret"}, "there is no run '../secret'"),
        ({"run": "/etc"}, "there is no run '/etc'"),
        ({"nmu": 4}, "unknown setting nmu"),
        ({"how": "vary"}, "choose a sample"),
        ({"how": "vray"}, "did you mean vary"),
        ({"how": "vary", "options": {"num": 9}}, "vary has no option num"),
        ({"options": {"strength": 0.5}}, "drawing has no option strength"),
        ({"how": "vary", "picture": ["nothing", 0]}, "no longer kept"),
    ],
)
def test_what_is_out_of_range_is_refused_in_the_words_of_the_package(
    server, pictures, change, message
):
    assert message in refused(server, "draw", {"run": pictures, "num": 4, **change})


@pytest.mark.parametrize(("port", "status"), [(80, 403), (8000, 421)])
def test_the_port_of_http_itself_may_be_left_out(port, status):
    scope = {"method": "GET", "path": "/other/", "headers": [(b"host", b"127.0.0.1")]}
    refusal = make_app(Library([]), token=TOKEN, port=port)._refusal(scope)
    assert refusal is not None
    assert refusal.status_code == status


def test_only_the_page_itself_may_ask(server, pictures):
    client, own = server.client, f"127.0.0.1:{server.port}"
    assert client.get("runs").status_code == 200
    for host in ("evil.example", f"evil.example:{server.port}", f"{own}.evil.example", ""):
        assert client.get("runs", headers={"host": host}).status_code in (400, 421)
    for origin in ("http://evil.example", "null", f"https://{own}", f"http://localhost:{own}"):
        assert client.get("runs", headers={"origin": origin}).status_code == 403
        assert client.post("draw", json={}, headers={"origin": origin}).status_code == 403
    bare = {"headers": {"content-type": "application/json"}, "content": b"{}"}
    request = client.build_request("POST", "draw", **bare)
    del request.headers["origin"]
    assert client.send(request).status_code == 403
    for path in ("/", "/runs", "/another-token/runs", "/a-toke/runs", "//runs", "/é/runs"):
        assert client.get(f"http://{own}{path}").status_code == 403
    page = client.get("")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    ["../secret/config.json", "..%2f..%2fsecret", "%2e%2e/config.json", "index.html", "studio.py"],
)
def test_no_path_leads_out_of_the_page(server, path):
    assert server.client.get(f"{server.url}/{path}").status_code in (403, 404)


def test_previews_are_named_by_number(server, pictures):
    for step in ("../../secret", "-1", "1" * 400, "４"):
        found = server.client.get("preview", params={"run": pictures, "step": step})
        assert found.status_code == 400


def test_large_uploads_are_not_read(server, pictures):
    def endless():
        for _ in range(2**10):
            yield bytes(2**20)

    query = {"run": pictures}
    path = f"/{TOKEN}/picture?{urlencode(query)}"
    own = f"127.0.0.1:{server.port}"
    with contextlib.closing(http.client.HTTPConnection(own, timeout=30)) as connection:
        said = {"content-length": str(2**30), "origin": f"http://{own}"}
        connection.request("POST", path, headers=said)  # It says a gigabyte, and sends nothing.
        answer = connection.getresponse()
        assert answer.status == 400
        assert b"8,388,608 bytes" in answer.read()
    try:
        found = server.client.post("picture", params=query, content=endless())
    except Exception as error:  # The server may close the connection before it has read all.
        assert type(error).__name__ in ("WriteError", "ReadError", "RemoteProtocolError")  # noqa: PT017
    else:
        assert found.status_code == 400


def bomb(side):
    """A small PNG of a great many white pixels."""
    file = io.BytesIO()
    Image.new("1", (side, side), 1).save(file, "PNG", optimize=True)
    return file.getvalue()


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(2**24))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bomb(5_000), "more than 16,777,216 pixels"),
        (bomb(12_000), "pixels"),
        (zipped(), "it is not a picture"),
        (b"", "it is empty"),
        (bomb(9)[:40], "can't be read"),
    ],
    ids=["large", "larger than Pillow takes", "zip", "empty", "cut short"],
)
def test_bad_pictures_are_refused(server, pictures, content, message):
    found = server.client.post("picture", params={"run": pictures}, content=content)
    assert found.status_code == 400
    assert message in found.json()["error"]


def test_results_are_asked_for_as_they_are(server, pictures):
    drawn = events(server, "draw", {"run": pictures, "num": 4})[-1][1]["result"]
    edit = {"run": pictures, "num": 1, "how": "inpaint"}
    for picture, mask, says in (
        ([drawn, 4], [0], "sample 4 does not exist; there are 4"),
        ([drawn, 0], [64], "mask: there is no pixel 64; they are 0 … 63"),
        ([drawn, 0], [-1], "mask: there is no pixel -1"),
    ):
        assert says in refused(server, "draw", {**edit, "picture": picture, "mask": mask})
    dropped = server.client.post("picture", params={"run": pictures}, content=bomb(9))
    for result, kind, says in (
        (drawn, "exe", "kind is 'exe'; it must be one of"),
        (dropped.json()["result"], "gif", "a dropped picture has no frames; save it as PNG"),
        ("gone", "png", "this result is no longer kept"),
    ):
        found = server.client.get("save", params={"result": result, "kind": kind})
        assert found.status_code == 400
        assert says in found.json()["error"]
    missing = server.client.get("preview", params={"run": pictures, "step": 7})
    assert missing.json()["error"] == "step 7 has no preview"


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def test_a_closed_page_stops_its_chain(server, pictures):
    request = {"run": pictures, "num": 2, "settings": {"steps": 20}}
    began = time.monotonic()
    with server.client.stream("POST", "draw", json=request) as answer:
        assert next(answer.iter_lines()) == "event: start"
        assert server.studio.streams.running == 1
    wait_until(lambda: server.studio.streams.running == 0)
    # The results kept grow by finished chains alone.
    assert time.monotonic() - began < 25


def test_too_many_chains_are_refused_and_frames_keep_their_pace(server, pictures):
    request = {"run": pictures, "num": 2, "settings": {"steps": 20}}
    events(server, "draw", request)  # Compiles it.
    began = time.monotonic()
    count = sum(name == "frame" for name, _ in events(server, "draw", request))
    assert count == 21
    assert time.monotonic() - began >= (count - 1) * FRAME_SECONDS * 0.98
    streams = server.studio.streams
    streams._running += MOST_STREAMS
    try:
        assert "chains run already" in refused(server, "draw", request)
    finally:
        streams._running -= MOST_STREAMS


def test_the_score_of_points_is_that_of_the_network(server, runs):
    asked = {"run": str(runs / "points"), "t": 5, "reach": 2}

    def score_of(**changed):
        query = {"asked": json.dumps({**asked, **changed})}
        return server.client.get("score", params=query)

    for params in ("ema", "raw"):
        run = sampling.load(runs / "points", params=params)
        found = score_of(params=params, checkpoint=run.step).json()
        points, score = (
            np.frombuffer(base64.b64decode(found[name]), "<f4").reshape(-1, 2)
            for name in ("points", "score")
        )
        x_t, t = jnp.asarray(points), jnp.full((len(points),), 5)
        eps = run.experiment.apply(run.params, x_t, t, run.experiment.condition(), train=False)
        sigma = run.experiment.schedule.sqrt_one_minus_alpha_bar[5]
        np.testing.assert_allclose(score, -np.asarray(eps) / sigma, rtol=1e-4, atol=1e-5)
    for change in ({"t": 21}, {"t": 0}, {"t": "x"}, {"reach": math.nan}, {"reach": -1}):
        assert score_of(**change).status_code == 400
    for change in ({"checkpoint": 99}, {"params": "best"}, {"run": "x"}, {"label": "cat"}):
        assert score_of(**change).status_code == 400


def test_requests_that_are_none_are_refused(server, pictures, runs):
    for text, says in (
        (b"{", "the request is not JSON"),
        (b"[" * 100_000, "the request is not JSON"),
        (b"[]", "the request must be a table of settings"),
    ):
        found = server.client.post("draw", content=text)
        assert (found.status_code, found.json()) == (400, {"error": says})
    found = server.client.get("about")
    assert (found.status_code, found.json()) == (400, {"error": "run is missing"})


def test_a_picture_is_for_a_run_on_pictures_of_its_size(server, pictures, runs):
    points = str(runs / "points")
    dropped = server.client.post("picture", params={"run": points}, content=bomb(9))
    assert dropped.json()["error"] == "this run does not draw grey pictures or colours"
    drawn = events(server, "draw", {"run": points, "num": 4})[-1][1]["result"]
    edit = {"run": pictures, "num": 1, "how": "inpaint", "picture": [drawn, 0], "mask": [0]}
    assert "from a run on pictures of another size" in refused(server, "draw", edit)
    file = io.BytesIO()
    Image.fromarray(np.full((9, 9), -5, np.int32)).save(file, "TIFF")
    signed = server.client.post("picture", params={"run": pictures}, content=file.getvalue())
    assert signed.json()["error"].startswith("the picture has signed or 32-bit levels from -5 to")
