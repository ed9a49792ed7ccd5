"""The page in a real browser: what a reader sees, clicks and types. Skipped where no Chromium is found
(FGMAE_BENCH_CHROMIUM names one).
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from make_records import make_record, resealed
from preloaded import HANG
from test_page import HOSTILE, hostile_table, many_records, table_of
from test_stress_card import card_record

from fgmae_bench.report import page

# The pipe of the DevTools protocol lies on the descriptors 3 (in) and 4 (out).
LAUNCH = "import os, sys; there, back = int(sys.argv[1]), int(sys.argv[2]); os.dup2(there, 3); os.dup2(back, 4); os.execvp(sys.argv[3], sys.argv[3:])"


def chromium() -> str | None:
    """The program, None where there is none."""
    names = [os.environ.get("FGMAE_BENCH_CHROMIUM"), "chromium", "chromium-browser", "google-chrome"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


class Browser:
    """One headless tab, driven by the DevTools protocol; collects console errors, exceptions and requested addresses."""

    def __init__(self, program: str, profile: Path):
        there, write = os.pipe()
        read, back = os.pipe()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (there, back)]
        flags = [
            "--headless",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
            "--no-first-run",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--force-color-profile=srgb",
            "--disable-background-networking",
        ]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")
        command = [sys.executable, "-c", LAUNCH, *map(str, high), program, *flags, "about:blank"]
        self.process = subprocess.Popen(command, pass_fds=high, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for fd in (there, back, *high):
            os.close(fd)
        self.write, self.read = write, read
        self.pending, self.numbers, self.session = b"", itertools.count(1), None
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> dict:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(HANG)
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _next(self, seconds: float) -> dict:
        while b"\0" not in self.pending:
            ready, _, _ = select.select([self.read], [], [], seconds)
            assert ready, "the browser does not answer"
            received = os.read(self.read, 1 << 20)
            assert received, "the browser has ended"
            self.pending += received
        line, _, self.pending = self.pending.partition(b"\0")
        message = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, params: dict) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(params["args"])[:500])

    def open(self, path: Path, fragment: str = "") -> float:
        """Load a file; returns the milliseconds from its start to the end of the page's start code."""
        self.errors.clear()
        self.call("Page.navigate", url="about:blank")
        self.requests.clear()
        self.call("Page.navigate", url=path.resolve().as_uri() + fragment)
        self.wait("document.documentElement?.dataset.readyMs")
        return float(self.run("document.documentElement.dataset.readyMs"))

    def run(self, code: str):
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, json.dumps(answer["exceptionDetails"])[:500]
        return answer["result"].get("value")

    def wait(self, code: str, seconds: float = HANG) -> None:
        """Until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"!!({code})"):
            assert time.monotonic() < end, f"never true: {code}"
            time.sleep(0.02)

    def press(self, name: str, code: int, text: str = "") -> None:
        """One key, as the keyboard sends it."""
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code, **more)

    def size(self, width: int, height: int, phone: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def scheme(self, name: str) -> None:
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(HANG)
        os.close(self.write)
        os.close(self.read)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = chromium()
    if program is None:
        pytest.skip("no Chromium: install one, or name it in FGMAE_BENCH_CHROMIUM")
    made = Browser(program, tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A page of measured, synthetic, published and stray runs."""
    seeds = [make_record(seed=seed, test={"oa": 0.7 + seed / 100}) for seed in (1, 2)]
    confusion = [[3 if i == j else i for j in range(3)] for i in range(3)]
    base = make_record(
        model="vit_base_patch16", batch_size=256, notes=(("still_improving", "Still improving at the end."),)
    )
    base = resealed(
        resealed(base, "metrics", "confusion", confusion), "metrics", "per_class", {c: {"accuracy": 0.5} for c in "abc"}
    )
    records = [*seeds, base, make_record(synthetic=True), make_record(lr=0.3)]
    out = tmp_path_factory.mktemp("site")
    page.write([table_of(records)], records, out)
    return out / "index.html"


TABLE = "document.getElementById('table-eurosat_linear')"


def labels(browser) -> list[str]:
    return browser.run(f"[...{TABLE}.querySelectorAll('tbody th')].map((cell) => cell.textContent)")


def column(browser, title: str) -> list[str]:
    """The cells of a column, top to bottom."""
    return browser.run(
        f"(() => {{ const heads = [...{TABLE}.querySelectorAll('thead th')].map((c) => c.textContent.replace(/[↑↓]/, '')); "
        f"return [...{TABLE}.querySelectorAll('tbody tr')].map((row) => row.children[heads.indexOf({json.dumps(title)})].textContent); }})()"
    )


def click(browser, selector: str, text: str = "") -> None:
    """Click the first element of the selector that holds the text."""
    found = f"[...document.querySelectorAll({json.dumps(selector)})].find((e) => e.textContent.includes({json.dumps(text)}))"
    browser.run(f"{found}.click()")


def type_filter(browser, text: str) -> None:
    browser.run(
        f"{{ const s = {TABLE}.querySelector('input[type=search]'); s.value = {json.dumps(text)}; s.dispatchEvent(new Event('input')); }}"
    )


def test_page_loads_without_errors_and_without_the_network(browser, site):
    browser.open(site)
    assert browser.requests == [site.resolve().as_uri()], "only the page itself"
    assert browser.errors == []
    assert "SYNTHETIC" in browser.run("document.getElementById('banner').innerText")
    assert [label for label in labels(browser) if "SYNTHETIC" in label] == ["ViT-S, batch 16SYNTHETIC"]
    assert browser.run(f"{TABLE}.querySelectorAll('path.curve').length") == 8, (
        "two seeds, base and synthetic, each with its training loss"
    )


def test_sorting_goes_down_up_and_back_with_empty_cells_last(browser, site):
    browser.open(site)
    laid_out = labels(browser)
    click(browser, "#table-eurosat_linear thead button", "OA")
    down = [text for text in column(browser, "OA") if text != "–"]
    assert down == sorted(down, key=lambda text: -float(text.split(" ")[0]))
    assert column(browser, "OA")[len(down) :] == ["–"] * (len(laid_out) - len(down))
    assert browser.run(f"{TABLE}.querySelector('[aria-sort=descending]').textContent") == "OA↓"
    click(browser, "#table-eurosat_linear thead button", "OA")
    assert [text for text in column(browser, "OA") if text != "–"] == down[::-1]
    assert column(browser, "OA")[-1] == "–"
    click(browser, "#table-eurosat_linear thead button", "OA")
    assert labels(browser) == laid_out


def test_filtering_by_text_and_by_facet(browser, site):
    browser.open(site)
    every = labels(browser)
    type_filter(browser, "vit-b 256")
    assert labels(browser) == ["ViT-B, batch 256"]
    type_filter(browser, "still improving")
    assert labels(browser) == ["ViT-B, batch 256"], "notes are searched too"
    type_filter(browser, "nothing of the kind")
    assert labels(browser) == []
    assert "No row passes" in browser.run(f"{TABLE}.innerText")
    click(browser, "#table-eurosat_linear .tools > button", "Reset")
    assert labels(browser) == every
    click(browser, "#table-eurosat_linear .options label", "vit_base_patch16")
    assert labels(browser) == ["ViT-B, batch 256"]
    click(browser, "#table-eurosat_linear .tools > button", "Reset")
    click(browser, "#table-eurosat_linear .options label", "synthetic (1)")
    assert labels(browser) == ["ViT-S, batch 16SYNTHETIC"]
    assert browser.errors == []


def test_record_opens_on_click_from_its_side_file(browser, site):
    browser.open(site)
    click(browser, "tbody .link", "ViT-B, batch 256")
    browser.wait("document.getElementById('panel').dataset.run")
    text = browser.run("document.getElementById('panel').innerText")
    assert "Confusion matrix" in text
    assert "Still improving at the end." in text
    assert len(browser.requests) == 2, "the page and one record"
    assert browser.requests[1].startswith((site.parent / "runs").resolve().as_uri())
    assert browser.run("document.querySelectorAll('#panel .confusion td.right').length") == 3
    assert browser.run("location.hash").startswith("#run=vit_base_patch16-published-")
    shown = json.loads(browser.run("[...document.querySelectorAll('#panel pre')].at(-1).textContent"))
    assert shown == json.loads(json.dumps(next(r for r in records_of(site) if r["run_id"] == shown["run_id"])))
    browser.press("Escape", 27)
    browser.wait("!document.getElementById('panel').open")
    browser.wait("location.hash === ''")
    assert browser.errors == []


def records_of(site: Path) -> list[dict]:
    texts = [path.read_text().removeprefix(page.CALL).removesuffix(");\n") for path in (site.parent / "runs").iterdir()]
    return [json.loads(f"[{text}]")[1] for text in texts]


def test_a_link_opens_its_run_and_seeds_are_one_click_apart(browser, site):
    run = make_record(seed=1, test={"oa": 0.71})["run_id"]
    browser.open(site, f"#run={run}")
    browser.wait(f"document.getElementById('panel').dataset.run === '{run}'")
    browser.open(site)
    click(browser, "tbody .link", "ViT-S, batch 16")
    browser.wait(f"document.getElementById('panel').dataset.run === '{run}'")
    click(browser, "#panel header button", "seed 2")
    browser.wait(f"document.getElementById('panel').dataset.run !== '{run}'")
    assert browser.errors == []


def test_a_record_that_is_not_beside_the_page_is_said(browser, site, tmp_path):
    (tmp_path / "index.html").write_bytes(site.read_bytes())
    browser.open(tmp_path / "index.html")
    click(browser, "tbody .link")
    browser.wait("document.getElementById('panel').innerText.includes('keep the folder runs/')")


def test_curves_are_switched_hidden_and_read_by_keyboard(browser, site):
    browser.open(site)
    click(browser, "#table-eurosat_linear .legend .entry", "ViT-B")
    assert browser.run(f"{TABLE}.querySelectorAll('path.curve').length") == 6
    click(browser, "#table-eurosat_linear .segments button", "learning rate")
    assert "learning rate" in browser.run(
        f"{TABLE}.querySelector('svg .axis:last-of-type').textContent + {TABLE}.querySelector('.plot').ariaLabel"
    )
    click(browser, "#table-eurosat_linear .segments button", "OA")
    browser.run(f"{TABLE}.querySelector('.plot').focus()")
    browser.press("ArrowRight", 39)
    browser.press("ArrowRight", 39)
    reading = browser.run(f"{TABLE}.querySelector('.reading').innerText")
    assert reading.startswith("epoch 2")
    assert "0.68" in reading, "0.8 * (1 - 0.3 / 2)"
    click(browser, "#table-eurosat_linear tbody .swatch")
    assert browser.run(f"{TABLE}.querySelector('tbody .swatch').getAttribute('aria-pressed')") == "false"
    assert browser.errors == []


def test_keyboard_alone_reaches_sorting_and_records(browser, site):
    browser.open(site)
    browser.run(f"{TABLE}.querySelector('thead button').focus()")
    browser.press("Enter", 13, "\r")
    assert browser.run("document.activeElement.closest('th').ariaSort") == "ascending", "the focus stays on the heading"
    browser.run(f"{TABLE}.querySelector('tbody .link').focus()")
    browser.press("Enter", 13, "\r")
    browser.wait("document.getElementById('panel').open")
    assert browser.run("document.getElementById('panel').contains(document.activeElement)")
    browser.press("Escape", 27)
    unnamed = "[...document.querySelectorAll('button, a, input, summary')].filter((e) => !e.textContent && !e.ariaLabel && !e.labels?.length)"
    assert browser.run(f"{unnamed}.length") == 0


# Foreground and background of whatever shows text, as the browser computes them, drawn to one pixel to resolve any
# colour notation.
CONTRAST = """(() => {
  const pixel = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = (colour) => { pixel.clearRect(0, 0, 1, 1); pixel.fillStyle = colour; pixel.fillRect(0, 0, 1, 1); return [...pixel.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  let worst = [99, ''];
  for (const element of document.querySelectorAll('body *')) {
    if (![...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !element.getClientRects().length || element.disabled) continue;
    let host = element, back = [0, 0, 0, 0];
    while (host && back[3] < 255) { back = rgb(getComputedStyle(host).backgroundColor); host = host.parentElement; }
    const [a, b] = [light(rgb(getComputedStyle(element)[element.closest('svg') ? 'fill' : 'color'])), light(back)];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < worst[0]) worst = [ratio, element.className + ': ' + element.textContent.slice(0, 40)];
  }
  return worst;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_render_with_readable_contrast(browser, site, scheme):
    browser.scheme(scheme)
    browser.open(site)
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, ground[4:-1].split(","))) < 60) == (scheme == "dark")
    click(browser, "tbody .link", "ViT-B, batch 256")
    browser.wait("document.getElementById('panel').dataset.run")
    ratio, where = browser.run(CONTRAST)
    assert ratio >= 4.5, where
    browser.press("Escape", 27)


def test_the_reader_overrides_the_scheme_and_the_choice_is_kept(browser, site):
    browser.scheme("light")
    browser.open(site)
    dark = "getComputedStyle(document.documentElement).colorScheme === 'dark'"
    assert not browser.run(dark)
    click(browser, "#theme")
    click(browser, "#theme")
    assert browser.run(dark)

    def kept():
        browser.open(site)
        return browser.run(dark)

    assert any(kept() for _ in range(20)), "the browser writes it down a moment later than the page says so"
    click(browser, "#theme")
    assert not browser.run(dark)


def test_hostile_names_stay_text(browser, tmp_path):
    table, records = hostile_table()
    browser.open(page.write([table], records, tmp_path))
    heading = browser.run("document.querySelector('#table-hostile h2').textContent")
    assert heading.startswith(HOSTILE)
    click(browser, "tbody .link")
    browser.wait("document.getElementById('panel').dataset.run")
    assert HOSTILE in browser.run("document.getElementById('panel').textContent")
    assert browser.run("typeof window.hit") == "undefined"
    assert browser.run("document.querySelectorAll('img, iframe, main script').length") == 0
    assert browser.errors == []


def test_the_physics_card_of_a_run_is_shown_and_a_stress_chosen(browser, tmp_path):
    record = card_record()
    browser.open(page.write([table_of([record])], [record], tmp_path))
    click(browser, "tbody .link")
    browser.wait("document.getElementById('panel').dataset.run")
    text = browser.run("document.getElementById('panel').innerText")
    assert "0.800 on clean data, chance 0.100, backscatter statistics 0.600" in text
    assert "1.25 dB" in text
    assert "> 3.4 dB" in text
    click(browser, "#panel button", "speckle")
    assert browser.run("document.querySelector('#panel figcaption').textContent").startswith("speckle, dB")
    assert browser.run("document.querySelectorAll('#panel svg.stress path').length") == 4
    assert browser.run("document.getElementById('panel').textContent.includes('NaN')") is False
    assert browser.errors == []


def test_page_fits_a_phone(browser, site):
    browser.size(375, 740, phone=True)
    try:
        browser.open(site)
        assert browser.run("document.documentElement.scrollWidth") <= 375
        click(browser, "tbody .link", "ViT-B, batch 256")
        browser.wait("document.getElementById('panel').dataset.run")
        assert browser.run("document.getElementById('panel').scrollWidth") <= 375
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")


def test_page_prints(browser, site):
    browser.open(site)
    assert base64.b64decode(browser.call("Page.printToPDF")["data"]).startswith(b"%PDF")
    assert browser.errors == []


@pytest.mark.slow
def test_a_thousand_runs_are_usable(browser, tmp_path):
    records = many_records(1000)
    path = page.write([table_of(records)], records, tmp_path)
    assert path.stat().st_size < 5_000_000
    browser.open(path)
    assert browser.run("document.querySelectorAll('tbody tr').length") <= 250, "tables are shown in pages"
    browser.run("document.querySelector('thead button').click()")
    browser.run(
        "{ const s = document.querySelectorAll('input[type=search]'); s[s.length - 1].value = 'base'; s[s.length - 1].dispatchEvent(new Event('input')); }"
    )
    assert browser.run("document.getElementsByTagName('*').length") < 100_000, "what is not shown has no elements"
    assert browser.errors == []
