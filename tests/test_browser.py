"""The pages in a real browser: Debian's chromium, driven by playwright (`pip install '.[browser]'`)."""

import re
import shutil
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from stories import HOSTILE, LONG, TEXT, TIMES, make, perfect_run
from tiny import command, copy_of

from ddcli import viz
from ddcli.viz.layout import cell
from ddcli.viz.parts import Believed, Event

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="needs chromium")]
PHONE, DESK = 390, 1200  # widths


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def visit(chromium, path, width=DESK, scheme="light", touch=False):
    """A page of ours, which must ask for nothing but itself, and have nothing to complain of."""
    screen = {"width": width, "height": 900}
    context = chromium.new_context(viewport=screen, color_scheme=scheme, has_touch=touch)
    page = context.new_page()
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))  # refusals of its policy too
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    try:
        page.goto(path.as_uri())
        yield page
        assert asked == [path.as_uri()]
        assert not said
    finally:
        context.close()


def written(folder, story):
    viz.write(story, folder / "noise.html")
    return folder / "noise.html"


def shown(page):
    """The text as it stands, and the state of each token."""
    spans = page.locator("#text span[class]:not(.word)")
    return page.locator("#text").text_content(), "".join(
        name.removesuffix(" pointed") for name in spans.evaluate_all("all => all.map((x) => x.className)")
    )


def test_the_text_is_shown_and_none_of_it_runs(chromium, tmp_path):
    with visit(chromium, written(tmp_path, make(HOSTILE)[0])) as page:
        assert page.title() == "Text under noise"
        text, states = shown(page)
        assert states == "k" * len(HOSTILE)
        assert "</script><script>document.title='owned'</script>" in text
        assert page.locator("#slider").get_attribute("aria-valuetext") == "t = 0.00, 0 % noise"


@pytest.mark.parametrize("way", ["drag", "keys", "click"])
def test_the_slider_moves_the_text(chromium, tmp_path, way):
    story, *_ = make(TEXT.strip(), times=TIMES)
    with visit(chromium, written(tmp_path, story)) as page:
        page.get_by_text("uniform noise", exact=True).click()
        slider = page.get_by_role("slider")
        box = slider.bounding_box()
        middle = box["y"] + box["height"] / 2
        if way == "drag":
            page.mouse.move(box["x"] + 8, middle)
            page.mouse.down()
            page.mouse.move(box["x"] + 0.695 * box["width"], middle, steps=8)
            page.mouse.up()
        elif way == "click":
            page.mouse.click(box["x"] + 0.695 * box["width"], middle)
        else:
            page.locator("#text").focus()
            for key in ["End", *["ArrowLeft"] * 4, "ArrowRight"]:
                page.keyboard.press(key)
        row = story.chapters[1].tracks[0].rows[7]
        text, states = shown(page)
        assert text == "".join(cell(story.pieces[token], "k", 1) for token in row.tokens)
        assert states == row.states
        assert f"{row.measures.information:.2f}" in page.locator("#figures").text_content()
        assert slider.get_attribute("aria-valuetext").startswith("t = 0.70")


def test_keys_move_the_slider_after_a_process_was_chosen_by_pointer(chromium, tmp_path):
    with visit(chromium, written(tmp_path, make(TEXT)[0])) as page:
        page.get_by_text("uniform noise", exact=True).click()
        page.wait_for_function("document.activeElement.id === 'slider'")
        page.keyboard.press("ArrowRight")
        assert page.get_by_role("slider").input_value() == "1"
        assert page.get_by_role("radio").nth(1).is_checked()


def test_the_other_process_is_shown_at_the_same_time(chromium, tmp_path):
    with visit(chromium, written(tmp_path, make(TEXT)[0])) as page:
        page.get_by_role("slider").fill("4")
        page.locator("#text span:not(.word)").nth(5).hover()
        page.get_by_text("uniform noise", exact=True).click()
        assert page.get_by_role("slider").get_attribute("aria-valuetext").startswith("t = 0.40")
        assert page.locator("#token").text_content().startswith("character 6: ")


def test_a_step_in_time_changes_the_tokens_that_change_and_no_others(chromium, tmp_path):
    """What keeps long texts fluid, however fast the machine is."""
    story, *_ = make(LONG, ["absorbing"], times=[i / 255 for i in range(256)])
    rows = story.chapters[0].tracks[0].rows
    changes = sum(a != b for a, b in zip(rows[100].states, rows[101].states, strict=True))
    count = """() => {
        show(100);
        const watched = new MutationObserver(() => {});
        watched.observe($("text"), { subtree: true, childList: true, characterData: true, attributes: true });
        show(101);
        return watched.takeRecords().length;
    }"""
    with visit(chromium, written(tmp_path, story)) as page:
        assert 0 < page.evaluate(count) <= 2 * changes  # its look, and what it reads


def test_it_plays_to_its_end_and_stops(chromium, tmp_path):
    """2,000 tokens and 256 frames: what is drawn at the end is the last of them."""
    story, *_ = make(LONG, ["absorbing"], times=[i / 255 for i in range(256)])
    path = written(tmp_path, story)
    assert path.stat().st_size < 1_500_000
    with visit(chromium, path) as page:
        page.get_by_role("button", name="Play").click()
        page.get_by_role("button", name="Pause").wait_for()
        page.get_by_role("button", name="Play").wait_for(timeout=60_000)
        assert page.get_by_role("slider").input_value() == "255"
        assert shown(page)[1] == "m" * 2000


@pytest.mark.parametrize("way", ["pointer", "keyboard", "touch"])
def test_a_token_tells_what_was_believed_of_it(chromium, tmp_path, way):
    step, at, bits, top = 2, 3, 1.25, [(5, 0.5), (4, 0.25), (6, 0.125)]
    story, *_ = make(TEXT, ["absorbing"], frames=perfect_run)
    back = story.chapters[0].tracks[1]
    told = replace(
        back, events=[Event(step, at, "o", 5, -np.log(2)), Event(3, 9, "o", 4, None)],
        beliefs=[Believed(1, at, 9.0, []), Believed(step, at, bits, top), Believed(5, at, 9.0, [])],
    )  # fmt: skip
    story = replace(story, chapters=[replace(story.chapters[0], tracks=[told])])
    with visit(chromium, written(tmp_path, story), touch=way == "touch") as page:
        page.get_by_role("slider").fill("4")
        token = page.locator("#text span:not(.word)").nth(3)
        if way == "keyboard":
            for _ in range(4):
                page.keyboard.press("Shift+ArrowRight")
        else:
            token.hover() if way == "pointer" else token.tap()
        belief = page.locator("#belief").text_content()
        assert belief.startswith("Believed at step 2: entropy 1.25 bits")
        for id, p in top:
            assert f"{story.pieces[id].replace(' ', '␣')}{100 * p:.1f} %" in belief
        widths = page.locator("#belief i").evaluate_all("all => all.map((bar) => bar.style.width)")
        assert widths == ["50%", "25%", "12.5%"]
        history = page.locator("#history").text_content()
        assert "step 2: opened as" in history
        assert "(1.00 bits)" in history
        assert "settled 1 of 2" in history
        spoken = page.locator("#token[aria-live=polite]").text_content()  # what a reader of screens is told
        assert "entropy 1.25 bits" in spoken
        assert history in spoken
        curves = page.locator("#curves").text_content()  # and no revisions, of which there were none
        assert "So far: masks left (thick line), calls (dots)0" in curves


def test_an_entry_of_a_matrix_is_read_by_pointer_and_by_keys(chromium, tmp_path):
    with visit(chromium, written(tmp_path, make("abab", ["uniform"])[0])) as page:
        page.get_by_role("slider").fill("10")
        product = page.locator("#matrices canvas").nth(1)
        product.hover()
        read = re.fullmatch(r'from "." to ".": probability (0\.\d{4})', page.locator("#entry").text_content())
        assert float(read[1]) == pytest.approx(1 / 3, abs=0.01)  # pure noise, of three symbols
        read = [page.locator("#entry").text_content()]
        for key in ("ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowUp"):
            product.press(key)
            read.append(page.locator("#entry").text_content())
        assert read[2] == read[0]  # on, and back
        assert len(set(read)) == 4
        assert page.get_by_role("slider").input_value() == "10"
        page.get_by_role("slider").fill("0")
        assert page.locator("#entry").text_content() != read[-1]  # it is read anew


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_page_fits_and_can_be_read(chromium, tmp_path, width, scheme):
    story, *_ = make(TEXT, ["absorbing", "uniform", "hybrid"], frames=perfect_run)
    with visit(chromium, written(tmp_path, story), width, scheme) as page:
        check_looks(page, width, scheme)
        page.get_by_role("slider").fill("5")
        for state in "mr":  # no state is told by its colour alone
            page.get_by_text("absorbing noise" if state == "m" else "uniform noise", exact=True).click()
            token = page.locator(f"#text .{state}").first
            style = token.evaluate("(x) => getComputedStyle(x).textDecorationLine")
            assert "░" in token.text_content() if state == "m" else style == "underline"


def check_looks(page, width, scheme):
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red, green, blue = map(int, re.findall(r"\d+", background))
    assert (red + green + blue > 600) == (scheme == "light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_report_fits_and_none_of_its_texts_run(chromium, absorbing_run, tmp_path, width, scheme):
    run = copy_of(absorbing_run, tmp_path)
    (run / "samples/step-00000050.txt").write_text(f"</pre><img src=//x.y onerror=owned()>{HOSTILE}")
    assert command("report", run).code == 0
    with visit(chromium, run / "report.html", width, scheme) as page:
        check_looks(page, width, scheme)
        assert "owned" not in page.title()
        texts = "".join(page.locator("pre").all_text_contents())
        assert "</pre><img src=//x.y onerror=owned()></script><script>document.title='owned'" in texts
        assert page.locator("script, img").count() == 0
