"""The page in a real browser: each thing that it offers, done by clicks and keys (`--long`).

It needs Debian's chromium, and `pip install -e '.[browser]'`.
"""

import base64
import contextlib
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.usefixtures("one_device")
SLOW = 120_000
"""Milliseconds for a program to be compiled, on a busy machine."""


# Before the server, and the runs that it trains: without --long no test needs them.
@pytest.fixture(scope="session", autouse=True)
def browser(pytestconfig):
    if not pytestconfig.getoption("--long"):
        pytest.skip("--long opens the page in a browser")
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as playing:
        flags = ["--no-sandbox", "--disable-background-networking"]
        found = playing.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield found
        found.close()


@contextlib.contextmanager
def opened(browser, server, **options):
    """The page; afterwards nothing went wrong on it, and it asked no other host."""
    context = browser.new_context(accept_downloads=True, **options)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(SLOW)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{server.url}/")
    page.get_by_label("Run").select_option(label=named(page, "pictures"))
    page.get_by_text("8 × 8 × 1 pictures").wait_for()
    page.locator("#draw:enabled").wait_for()
    yield page
    assert page.locator("#error").text_content() == ""
    context.close()
    assert said == []
    assert {url.split("/")[2] for url in asked if url.startswith("http")} == {
        f"127.0.0.1:{server.port}"
    }
    assert {url.split(":")[0] for url in asked} <= {"http", "data", "blob"}


def named(page, ending):
    """The name of the run whose path ends so; the list comes a moment after the page."""
    page.locator("#run option").first.wait_for(state="attached")
    return next(it for it in page.locator("#run option").all_text_contents() if it.endswith(ending))


def draw(page, **settings):
    for name, value in settings.items():
        page.locator(f"#forms form >> nth=0 >> [name={name}]").fill(str(value))
    page.get_by_role("button", name="Draw", exact=True).click()
    drawn(page)


def drawn(page, panes=1):
    """Waits until as many panes have samples to click."""
    page.locator("#stop[disabled]").wait_for()
    for pane in range(panes):
        page.locator(".pane").nth(pane).locator(".tiles button").first.wait_for(state="attached")


def pixels(page, selector):
    """What is drawn on a canvas."""
    url = page.locator(selector).first.evaluate("canvas => canvas.toDataURL()")
    picture = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))
    return np.asarray(picture.convert("RGB"), np.float32)


def assert_shown(samples, canvas):
    """Each pixel of the four samples is a square of the canvas, in its grey."""
    expected = np.clip((samples + 1) * 127.5, 0, 255)
    side = (canvas.shape[0] - 2) // 2  # A gap of two pixels lies between the pictures.
    for k, sample in enumerate(expected):
        top, left = (side + 2) * (k // 2), (side + 2) * (k % 2)
        found = canvas[top : top + side, left : left + side]
        large = np.kron(sample[..., 0], np.ones((side // 8, side // 8)))
        assert np.abs(found - large[..., None]).max() <= 1


def test_samples_are_watched_scrubbed_saved_and_told(browser, server):
    with opened(browser, server) as page:
        draw(page, num=4, seed=3)
        assert page.locator(".tiles button").count() == 4
        assert page.locator("#where").text_content() == "step 5 of 5, t = 0"
        last = pixels(page, ".pane canvas")
        page.locator("#scrub").press("Home")
        assert page.locator("#where").text_content() == "step 0 of 5, t = 20"
        page.wait_for_timeout(300)
        assert np.abs(pixels(page, ".pane canvas") - last).mean() > 5
        page.locator("#scrub").press("ArrowRight")
        assert "step 1 of 5" in str(page.locator("#scrub").get_attribute("aria-valuetext"))
        page.get_by_role("button", name="Copy").click()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == page.locator("#command").text_content()
        assert copied.startswith("ddpm sample ")
        assert "--seed 3" in copied
        for kind in ("PNG", "GIF", "npz"):
            with page.expect_download() as caught:
                page.get_by_role("button", name=f"Save {kind}").click()
            path = caught.value.path()
            if kind == "npz":
                with np.load(path) as arrays:
                    assert arrays["samples"].shape == (4, 8, 8, 1)
                    assert_shown(arrays["samples"], last)
            else:
                with Image.open(path) as found:
                    assert found.format == kind


def test_two_settings_share_their_noise(browser, server):
    with opened(browser, server) as page:
        page.get_by_label("Compare two settings").check()
        forms = page.locator("#forms form")
        assert forms.count() == 2
        forms.nth(0).locator("[name=num]").fill("4")
        forms.nth(1).locator("[name=guidance]").fill("3")
        page.get_by_role("button", name="Draw", exact=True).press("Enter")
        drawn(page, 2)
        ends = [pixels(page, f".pane:nth-child({k}) canvas") for k in (1, 2)]
        page.locator("#scrub").press("Home")
        page.wait_for_timeout(300)
        starts = [pixels(page, f".pane:nth-child({k}) canvas") for k in (1, 2)]
        np.testing.assert_array_equal(starts[0], starts[1])
        assert np.abs(ends[0] - ends[1]).mean() > 1


def test_a_sample_is_kept_varied_inverted_and_joined_to_another(browser, server):
    with opened(browser, server) as page:
        draw(page, num=4)
        tiles = page.locator(".tiles button")
        tiles.nth(0).focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        assert tiles.nth(1).get_attribute("aria-pressed") == "true"
        assert tiles.nth(1).get_attribute("aria-label") == "sample 1, class 1"
        page.get_by_role("button", name="Keep its noise").click()
        assert page.locator("[name=first]").input_value() == "1"
        assert page.locator("[name=labels]").input_value() == "1"
        page.get_by_label("Results of an edit").fill("3")
        page.get_by_role("button", name="Vary", exact=True).click()
        drawn(page)
        assert tiles.count() == 3
        assert "--how vary --num 3" in str(page.locator("#command").text_content())
        tiles.nth(0).click()
        tiles.nth(2).click()
        assert page.locator("#chosen").text_content() == "Chosen: sample 0 and sample 2."
        page.get_by_role("button", name="Interpolate two").click()
        drawn(page)
        assert "--how interpolate" in str(page.locator("#command").text_content())
        tiles.nth(1).click()
        page.get_by_role("button", name="Invert").click()
        drawn(page)
        assert "mean squared error" in str(page.locator(".pane-said").text_content())


def test_a_dropped_picture_is_painted_and_inpainted(browser, server, tmp_path):
    Image.effect_noise((40, 30), 80).convert("RGB").save(tmp_path / "cat.png")
    with opened(browser, server) as page:
        page.get_by_label("Picture from a file").set_input_files(tmp_path / "cat.png")
        page.get_by_text("Chosen: the dropped picture.").wait_for()
        canvas = page.locator("#paint")
        canvas.scroll_into_view_if_needed()
        page.get_by_role("button", name="Inpaint").wait_for()
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + 100, box["y"] + 100)
        page.mouse.down()
        page.mouse.move(box["x"] + 200, box["y"] + 100, steps=8)
        page.mouse.up()
        page.wait_for_timeout(200)
        canvas.focus()
        for key in ["Space", *["ArrowDown"] * 8, "Space"]:
            page.keyboard.press(key)
        painted = str(canvas.get_attribute("aria-label")).split("; ")[1]
        assert int(painted.split()[0]) >= 5
        page.get_by_label("Results of an edit").fill("2")
        page.get_by_role("button", name="Inpaint").click()
        drawn(page)
        assert "--how inpaint" in str(page.locator("#command").text_content())


def test_training_is_followed(browser, server):
    with opened(browser, server) as page:
        page.get_by_text("Not training: step 8 of 8").wait_for()
        preview = page.get_by_label("Preview", exact=True)
        page.locator("#preview").wait_for()
        preview.press("ArrowLeft")
        page.get_by_alt_text("samples at step 4 of training").wait_for()


def test_points_have_trajectories_score_and_density(browser, server):
    with opened(browser, server) as page:
        page.get_by_label("Run").select_option(label=named(page, "points"))
        page.get_by_text("points, T = 20").wait_for()
        page.locator("#draw:enabled").wait_for()
        page.locator("[name=num]").fill("200")
        page.get_by_role("button", name="Draw", exact=True).click()
        page.locator("#stop[disabled]").wait_for()
        page.get_by_text("step 20 of 20").wait_for()
        before = pixels(page, ".pane canvas")

        def set_time():
            page.get_by_label("Score at t").fill("15")

        for name in ("Trajectories", "Density"):
            page.get_by_label(name, exact=True).check()
            page.wait_for_timeout(300)
            after = pixels(page, ".pane canvas")
            assert np.abs(after - before).mean() > 0.5, name
            before = after
        for change in (page.get_by_label("Score", exact=True).check, set_time):
            with page.expect_response("**/score?*"):
                change()
            page.wait_for_timeout(300)
            after = pixels(page, ".pane canvas")
            assert np.abs(after - before).mean() > 0.1
            before = after


def test_a_shape_drawn_with_the_mouse_is_learned(browser, server):
    with opened(browser, server) as page:
        canvas = page.locator("#shape")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + 60, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + 240, box["y"] + 200, steps=10)
        page.mouse.up()
        page.get_by_role("button", name="Train").click()
        page.get_by_text("Step 1").wait_for()
        page.get_by_text("Learned in").wait_for(timeout=4 * SLOW)
        page.get_by_text("points, T = 100").wait_for()
        assert str(page.get_by_label("Run").input_value()).startswith("drawing ")


@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_and_breaks_no_rule_of_axe(browser, server, width, theme, tmp_path_factory):
    axe = pytest.importorskip("axe_playwright_python")
    source = Path(axe.__file__).with_name("axe.min.js").read_text()
    size = {"width": width, "height": 900}
    options = {"viewport": size, "color_scheme": theme, "bypass_csp": True}
    with opened(browser, server, **options) as page:
        draw(page, num=4)
        page.locator(".tiles button").nth(1).click()
        page.wait_for_timeout(300)
        page.evaluate(source)
        found = page.evaluate("axe.run()")
        named = [(it["id"], [node["html"] for node in it["nodes"]]) for it in found["violations"]]
        assert named == []
        assert len(found["passes"]) > 20
        # Nothing is wider than the screen.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        folder = tmp_path_factory.getbasetemp()
        page.screenshot(path=folder / f"studio-{theme}-{width}.png", full_page=True)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_two_visits_look_the_same(browser, server, theme):
    seen = []
    for _ in range(2):
        with opened(browser, server, color_scheme=theme) as page:
            draw(page, num=4, seed=3)
            page.wait_for_timeout(300)
            # All but the line that says how long it took.
            shot = page.screenshot(full_page=True, mask=[page.locator(".pane-said")])
            seen.append(np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")))
    np.testing.assert_array_equal(*seen)
    assert (seen[0].mean() > 128) == (theme == "light")
