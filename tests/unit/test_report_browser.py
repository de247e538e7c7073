# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of runs in a real browser: in light and dark, narrow and wide, and on paper."""

from __future__ import annotations

import pytest

from ansible_collections.kvmops.migration.plugins.plugin_utils import report
from fake.browser import Browser, pixels
from fake.recorder import HOSTILE, KINDS, OUTAGE, Recorder

NARROW, WIDE = 400, 1400
# What nobody may have to say: errors of the page, and anything that it has asked for.
COMPLAINTS = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Network.loadingFailed")
# Each piece of text that is seen, with its contrast to what lies behind it and what it needs (WCAG 2, AA).
CONTRASTS = """(() => {
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const behind = node => {
    for (let one = node; one; one = one.parentElement) {
      const found = parts(getComputedStyle(one).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
      if (found[3] > 0) throw new Error("half transparent: " + one.className);
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  for (let node; (node = walker.nextNode());) {
    const range = document.createRange();
    range.selectNodeContents(node);
    if (!node.data.trim() || !range.getClientRects().length) continue;
    const style = getComputedStyle(node.parentElement), size = parseFloat(style.fontSize);
    const [a, b] = [light(parts(style.color)), light(behind(node.parentElement))].sort((x, y) => y - x);
    found.push({text: node.data.trim(), ratio: (a + .05) / (b + .05), size,
                needed: size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5});
  }
  return found;
})()"""
# What sticks out of the page at its sides; what scrolls by itself may.
STICKING_OUT = """[...document.body.querySelectorAll("*")]
  .filter(one => !one.closest(".scroll table") && !one.closest("svg") && one.getClientRects().length)
  .filter(one => { const seen = one.getBoundingClientRect(); return seen.left < -.5 || seen.right > innerWidth + .5; })
  .map(one => one.outerHTML.slice(0, 200))"""
# Labels of one axis, or marks of one plot, that lie on each other.
OVERLAPPING = """[...document.querySelectorAll(".values, .times, .marks, .track.plain")].flatMap(axis => {
  const seen = [...axis.children].map(one => [one.textContent, one.getBoundingClientRect()]);
  return seen.flatMap(([a, x], i) => seen.slice(i + 1)
    .filter(([, y]) => x.left < y.right && y.left < x.right && x.top < y.bottom && y.top < x.bottom)
    .map(([b]) => `${a} and ${b}`));
})"""
PLOTS = """[...document.querySelectorAll(".plot svg")].map(svg => {
  const {x, y, width, height} = svg.getBoundingClientRect();
  return {x, y: y + scrollY, width, height, lines: [...svg.querySelectorAll(".dots")].map(one => ({
    color: getComputedStyle(one).stroke.match(/\\d+/g).map(Number), dots: one.getAttribute("d").split("M").length - 1,
    inside: ["left", "right"].every(() => { const a = one.getBBox(); return a.x >= 0 && a.x + a.width <= 10000
      && a.y >= 0 && a.y + a.height <= 1000; })}))};
})"""
LUMINANCE = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((sum, one) => sum + one / 765, 0)"


@pytest.fixture(scope="module")
def browser():
    found = Browser()
    yield found
    found.close()


@pytest.fixture
def pages(lab, monkeypatch, tmp_path):
    """Write the page about a run of a kind, or about one of each; gives back its file and the records."""
    recorder = Recorder(lab, monkeypatch)

    def pages(kind):
        # Disks are copied while the hosts share none.
        kinds = ("disks", "offline", "policy", "failed", "refused") if kind == "all" else (kind,)
        answers = [recorder.make(kind) for kind in kinds]
        records = report.chosen(answers, recorder.records())
        if kind == "policy":
            records = [{**records[0], "outage": {**OUTAGE, "began_at": records[0]["began"] + 30.5}}]
        path = tmp_path / "report.html"
        path.write_text(report.page(records), encoding="utf-8")
        return path, records

    return pages


@pytest.mark.parametrize("kind", [*KINDS, "all"])
def test_it_is_readable_everywhere_and_asks_for_nothing(browser, pages, kind):
    path, records = pages(kind)
    for scheme in ("light", "dark"):
        for width in (NARROW, WIDE):
            browser.show(path, width, scheme)
            assert browser.told(*COMPLAINTS) == []
            asked = {one["request"]["url"] for one in browser.told("Network.requestWillBeSent")}
            assert asked == {f"file://{path}"}
            assert (browser.ask(LUMINANCE) > 0.5) == (scheme == "light")
            texts = browser.ask(CONTRASTS)
            assert len(texts) > 30
            assert [one for one in texts if one["ratio"] < one["needed"] or one["size"] < 12] == []
            assert browser.ask("document.documentElement.scrollWidth") <= width
            assert browser.ask(STICKING_OUT) == []
            assert browser.ask(OVERLAPPING) == []
    shown = browser.ask("[...document.querySelectorAll('article > header > :first-child')].map(one => one.textContent)")
    assert shown == [record["name"] for record in records]
    assert browser.ask("document.querySelectorAll('script, article b, link, img, iframe').length") == 0


@pytest.mark.parametrize("kind", ["policy", "disks", "failed"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_points_of_the_plots_are_seen(browser, pages, kind, scheme):
    path, (record,) = pages(kind)
    for width in (NARROW, WIDE):
        browser.show(path, width, scheme)
        plots = browser.ask(PLOTS)
        assert len(plots) == (3 if kind == "disks" else 2)
        for plot in plots:
            seen = pixels(browser.picture({key: plot[key] for key in ("x", "y", "width", "height")}))
            for line in plot["lines"]:
                assert line["inside"]
                assert 1 < line["dots"] <= len(record["series"])
                near = sum(all(abs(a - b) < 12 for a, b in zip(pixel, line["color"])) for pixel in seen)
                assert near >= line["dots"], line


def test_it_can_be_printed(browser, pages):
    path, _records = pages("all")
    browser.show(path, 794, "dark", media="print")
    # Paper is white, whatever the reader likes on a screen.
    assert browser.ask(LUMINANCE) > 0.99
    assert [one for one in browser.ask(CONTRASTS) if one["ratio"] < one["needed"]] == []
    assert browser.ask(STICKING_OUT) == []
    assert browser.printed().startswith(b"%PDF-")


def test_a_name_is_text_and_nothing_else(browser, pages):
    path, _records = pages("disks")
    browser.show(path, WIDE)
    assert browser.ask("document.querySelector('h1').textContent") == HOSTILE
    assert HOSTILE in browser.ask("document.title")


def test_a_page_that_is_wrong_is_found_out(browser, tmp_path):
    """The browser sees what the tests above look for."""
    path = tmp_path / "wrong.html"
    path.write_text(
        "<!DOCTYPE html><body style='background: #fff'><p style='color: #999'>pale</p>"
        "<div style='width: 3000px'>wide</div><img src='http://192.0.2.1/x.png'>"
        "<div class='times'><span style='position: absolute'>a</span><span style='position: absolute'>b</span></div>"
        "<script>console.error('x'); undefined_name()</script>",
        encoding="utf-8",
    )
    browser.show(path, NARROW)
    assert {"Runtime.exceptionThrown", "Runtime.consoleAPICalled"} <= {event["method"] for event in browser.events}
    assert "http://192.0.2.1/x.png" in {one["request"]["url"] for one in browser.told("Network.requestWillBeSent")}
    assert [one["text"] for one in browser.ask(CONTRASTS) if one["ratio"] < one["needed"]] == ["pale"]
    assert browser.ask("document.documentElement.scrollWidth") > NARROW
    assert browser.ask(STICKING_OUT) != []
    assert browser.ask(OVERLAPPING) == ["a and b"]
