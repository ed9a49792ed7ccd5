"""The board in a real browser: sorting, filtering and comparing kept in the address, ranks, costs, cards, a phone."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, unquote

import pytest
from boards import league, record, row, table
from make_records import resealed
from test_page_browser import CONTRAST, browser, click  # noqa: F401
from test_ranking import all_pairs

from fgmae_bench.report import page
from fgmae_bench.report.board import board

BOARD = "document.getElementById('board-pivot-linear_probe')"
SCORES = {"alpha": [0.5, 0.6], "beta": [0.9, 0.7], "gamma": [0.7, 0.7005]}


def stress_record(model: str, clean: float):
    """A physics card of one stress."""
    made = resealed(record(model, oa=clean), "protocol", "stress_linear_probe")
    items = [
        {"name": "speckle", "severity": float(s), "unit": "dB", "metrics": {"oa": clean - 0.1 * s}} for s in (1, 2)
    ]
    tolerance = {"value": 0.4, "censored": False, "interval": [0.3, 0.6], "area": 0.8, "chance": 0.1, "withheld": None}
    made = resealed(made, "stress", items)
    return resealed(
        made, "metrics", "tolerance", {"speckle": {**tolerance, "metric": "oa", "clean": clean, "unit": "dB"}}
    )


def labelled() -> list:
    """Rows of a curve over shots."""
    made = []
    for shots in (1, 5):
        seeds = []
        for seed in (0, 1):
            each = resealed(
                record("alpha", "d9", oa=0.4 + shots / 20 + seed / 100, seed=seed), "config", "data", "shots", shots
            )
            seeds.append(resealed(each, "dataset", "n_train", shots * 10))
        made.append(row("alpha", *seeds))
    return made


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    main = league(SCORES, seeds=2)
    tables = [main, table(*labelled(), name="few", title="Few labels"), table(name="empty", title="Nothing yet")]
    records = [each for made in tables for each in made.records] + [stress_record("alpha", 0.8)]
    out = tmp_path_factory.mktemp("board")
    page.write(tables, records, out, board(tables, records, all_pairs(main)))
    return out / "index.html"


def models(tab) -> list[str]:
    return tab.run(f"[...{BOARD}.querySelector('.pivot').querySelectorAll('tbody th')].map((cell) => cell.textContent)")


def kept(tab) -> dict:
    """What the address holds of the board."""
    text = parse_qs(tab.run("location.hash").removeprefix("#")).get("board-pivot-linear_probe", ["{}"])[0]
    return json.loads(unquote(text))


def tick(tab, label: str) -> None:
    tab.run(f"{BOARD}.querySelector('[aria-label=\"Compare {label}\"]').click()")


def test_the_board_comes_first_and_empty_tables_are_folded(browser, site):  # noqa: F811
    browser.open(site)
    assert browser.errors == []
    assert browser.requests == [site.resolve().as_uri()]
    first = browser.run("[...document.querySelectorAll('main > section')].map((section) => section.id)")
    assert first[0] == "board-pivot-linear_probe"
    assert first.index("board-cards") < first.index("table-t")
    assert first[-1] == "planned"
    assert browser.run("document.querySelectorAll('#planned details').length") == 1
    assert "d0, OA, 5,400 samples, groups unknown" in browser.run(f"{BOARD}.querySelector('thead').textContent")
    assert browser.run(f"[...{BOARD}.querySelectorAll('.best')].map((e) => e.textContent)") == [
        "0.901 ± 0.001",
        "0.700 ± 0.001",
        "0.701 ± 0.001",
    ]


def test_sort_filter_and_comparison_are_kept_in_the_address(browser, site):  # noqa: F811
    browser.open(site)
    click(browser, "#board-pivot-linear_probe thead button", "d0")
    assert models(browser)[:3] == ["beta", "gamma", "alpha"]
    tick(browser, "beta")
    tick(browser, "gamma")
    text = browser.run(f"{BOARD}.querySelector('.beside').innerText")
    assert "A: beta · B: gamma" in text
    assert "+0.200" in text
    assert "separated" in text
    assert "equal within the margin" in text
    assert kept(browser) == {"sort": "0", "pick": [1, 2]}
    again = browser.run("location.hash")
    browser.open(site, again)
    assert models(browser)[:3] == ["beta", "gamma", "alpha"]
    assert "A: beta · B: gamma" in browser.run(f"{BOARD}.querySelector('.beside').innerText")
    click(browser, "#board-pivot-linear_probe .tools > button", "Reset")
    assert models(browser)[:3] == ["alpha", "beta", "gamma"]
    assert browser.run("location.hash") == ""
    assert browser.errors == []


def test_a_run_table_keeps_its_filter_beside_an_open_run(browser, site):  # noqa: F811
    browser.open(site)
    browser.run(
        "{ const s = document.querySelector('#table-t input[type=search]'); s.value = 'beta'; s.dispatchEvent(new Event('input')); }"
    )
    click(browser, "#table-t tbody .link", "beta")
    browser.wait("document.getElementById('panel').dataset.run")
    address = browser.run("location.hash")
    assert address.startswith("#run=beta-published-")
    browser.open(site, address)
    browser.wait("document.getElementById('panel').dataset.run")
    assert browser.run("document.querySelector('#table-t input[type=search]').value") == "beta"
    browser.press("Escape", 27)
    browser.wait("!location.hash.includes('run=')")
    assert "table-t" in browser.run("location.hash")


@pytest.mark.parametrize(
    "address",
    [
        "#board-pivot-linear_probe=%7B",
        "#board-pivot-linear_probe=%7B%22pick%22:[99,-1,%22x%22],%22sort%22:7%7D",
        "#run=%zz",
        "#x=1&run=nobody",
    ],
    ids=["cut", "beyond", "escape", "unknown"],
)
def test_an_address_that_says_nothing_is_passed_over(browser, site, address):  # noqa: F811
    browser.open(site, address)
    assert models(browser)[:3] == ["alpha", "beta", "gamma"]
    assert browser.errors == []
    assert not browser.run("document.getElementById('panel').open")


def test_what_a_rank_rests_on_is_one_click_away(browser, site):  # noqa: F811
    browser.open(site)
    assert "Over 2 datasets" in browser.run(f"{BOARD}.querySelector('.rank').innerText")
    click(browser, "#board-pivot-linear_probe .rank .link", "gamma")
    assert models(browser) == ["gamma"]
    click(browser, "#board-pivot-linear_probe .pivot td .link")
    browser.wait("document.getElementById('panel').dataset.run")
    browser.press("Escape", 27)


def test_costs_cards_and_label_curves_are_drawn(browser, site):  # noqa: F811
    browser.open(site)
    assert "alpha (fgmae)" in browser.run("document.getElementById('board-cards').innerText")
    assert "0.40 dB" in browser.run("document.getElementById('board-cards').innerText")
    assert browser.run("document.querySelectorAll('#board-cards .spark polyline').length") == 1
    assert browser.run("document.querySelectorAll('#board-labels-few-shots circle.mark').length") == 2
    click(browser, "#board-cards .link", "alpha")
    browser.wait("document.getElementById('panel').dataset.run")
    assert browser.errors == []
    browser.press("Escape", 27)


def test_letters_of_pictures_can_be_read_on_a_phone(browser, site):  # noqa: F811
    browser.size(390, 844, phone=True)
    try:
        browser.open(site)
        heights = browser.run(
            "[...document.querySelectorAll('.scatter text')].map((e) => e.getBoundingClientRect().height)"
        )
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")
    assert heights
    assert min(heights) > 10


def test_cards_that_share_a_heading_say_of_which_run_they_are():
    from fgmae_bench.report.page_board import card_data

    one, other = stress_record("alpha", 0.8), stress_record("beta", 0.8)
    again = resealed(one, "run_id", "again-0123456789")
    cards = card_data([one, other, again], {each["sha256"]: each["run_id"] for each in (one, other, again)})
    assert [card["of"] for card in cards] == [one["run_id"], "", "again-0123456789"]


def test_costs_of_two_machines_have_an_axis_each(browser, tmp_path):  # noqa: F811
    rows = []
    for i, machine in enumerate(("EPYC", "EPYC", "H200", "H200")):
        made = record("abcd"[i], "d0", oa=0.5 + i / 10)
        environment = {**made["environment"], "device": "cuda", "device_name": machine, "world_size": 1}
        made = resealed(resealed(made, "environment", environment), "model", "params_total", 10 + i)
        rows.append(row("abcd"[i], resealed(made, "timing", "images_per_second", 100.0 * (i + 1))))
    main = table(*rows)
    page.write([main], main.records, tmp_path, board([main], main.records, all_pairs(main)))
    browser.open(tmp_path / "index.html")
    figure = f"{BOARD}.querySelector('figure')"
    names = browser.run(f"[...{figure}.querySelectorAll('.segments')][0].innerText.split('\\n')")
    assert [name for name in names if name.startswith("images/s")] == ["images/s, EPYC", "images/s, H200"]
    click(browser, "#board-pivot-linear_probe figure .segments button", "images/s, H200")
    assert browser.run(f"{figure}.querySelectorAll('circle.point').length") == 2
    assert browser.run(f"{figure}.querySelector('text.axis').textContent") == "images/s, H200 (more is better)"
    assert "Left out: 2 of other machines." in browser.run(f"{figure}.innerText")
    click(browser, "#board-pivot-linear_probe figure .segments button", "parameters")
    assert browser.run(f"{figure}.querySelectorAll('circle.point').length") == 4
    assert "Left out" not in browser.run(f"{figure}.innerText")
    tick(browser, "a")
    tick(browser, "c")
    beside = browser.run(f"{BOARD}.querySelector('.beside').innerText")
    assert "parameters × 0.833" in beside
    assert "images/s" not in beside
    tick(browser, "c")
    tick(browser, "b")
    assert "images/s × 0.5" in browser.run(f"{BOARD}.querySelector('.beside').innerText")
    assert browser.errors == []


def test_the_keyboard_reaches_the_board(browser, site):  # noqa: F811
    browser.open(site)
    browser.run(f"{BOARD}.querySelectorAll('thead button')[1].focus()")
    browser.press("Enter", 13, "\r")
    assert models(browser)[0] == "beta"
    assert browser.run("document.activeElement.closest('th').ariaSort") == "descending"
    browser.run(f"{BOARD}.querySelector('tbody input').focus()")
    browser.press(" ", 32, " ")
    assert kept(browser)["pick"] == [1]
    assert browser.run("document.activeElement.type") == "checkbox"
    unnamed = "[...document.querySelectorAll('button, a, input, summary')].filter((e) => !e.textContent && !e.ariaLabel && !e.labels?.length)"
    assert browser.run(f"{unnamed}.length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_board_is_readable_in_both_schemes(browser, site, scheme):  # noqa: F811
    browser.scheme(scheme)
    browser.open(site)
    ratio, where = browser.run(CONTRAST)
    assert ratio >= 4.5, where


def test_on_a_phone_every_value_stands_beside_its_label(browser, site):  # noqa: F811
    browser.size(390, 840, phone=True)
    try:
        browser.open(site)
        assert browser.run("document.documentElement.scrollWidth") <= 390
        unlabelled = """[...document.querySelectorAll('main table.stack tbody td:not(.empty)')].filter((cell) => cell.getClientRects().length
          && !getComputedStyle(cell, '::before').content.replace(/^none$|^normal$|^""$/, '')).map((cell) => cell.textContent)"""
        assert browser.run(unlabelled) == []
        wide = "[...document.querySelectorAll('main table.stack tbody tr')].filter((line) => line.scrollWidth > 390).length"
        assert browser.run(wide) == 0
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")
