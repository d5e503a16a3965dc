"""The report as a reader, a browser and a machine meet it."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import trace_numbers
from PIL import Image

from dgmvlc_cli.analysis.measures import PRIMARY_MEASURE
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.mapping import summary_table
from dgmvlc_cli.report import words
from dgmvlc_cli.report.contents import ReportContents
from dgmvlc_cli.report.figures import draw_all
from dgmvlc_cli.report.html import (
    MAX_THUMBNAILS,
    SCHEMA_PATH,
    qc_thumbnails,
    render,
    report_json,
    write_report,
)
from dgmvlc_cli.report.numbers import effect_table, mixed_rows, numbers_of, trust_facts
from dgmvlc_cli.report.pdf import browser_command, find_browser
from dgmvlc_cli.report.viewer import MAX_BYTES
from dgmvlc_cli.workspace import write_table

Build = Callable[..., ReportContents]
VOID = {"meta", "link", "br", "img", "input", "hr"}
FEWEST = ("title", "contrast", "attribute", "verdict", "verdicts", "effects", "measures")
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'"


class Page(HTMLParser):
    """Tags with their attributes, whether they close, and the cells of each table by its id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.tables: dict[str, list[dict[str, str]]] = {}
        self.table: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.table = dict(attrs).get("id") or ""
            self.tables.setdefault(self.table, [])
        if tag == "td" and self.table is not None:
            cell = {key: value or "" for key, value in attrs}
            self.tables[self.table].append(cell | {"text": ""})

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)
        if tag == "table":
            self.table = None

    def handle_data(self, data: str) -> None:
        if self.table is not None and "td" in self.open and self.tables[self.table]:
            self.tables[self.table][-1]["text"] += data


@pytest.fixture(scope="module")
def folder(contents: ReportContents, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("analysis")
    assert write_report(directory, contents) == directory / "report.html"
    assert contents.maps is not None and contents.statistics is not None
    tables = {
        "effects": contents.effects,
        "verdicts": contents.verdicts,
        "statistics": contents.statistics,
        "truth": contents.truth,
        "maps": summary_table(contents.maps, contents.contrast),
    }
    for name, table in tables.items():
        write_table(directory / f"{name}.tsv", table)
    return directory


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text("utf-8"))


def forbid(text: str) -> Any:
    raise AssertionError(f"{text} is no JSON")


def page_of(contents: ReportContents) -> str:
    return render(contents, draw_all(contents), numbers_of(contents))


def test_nothing_is_loaded_from_anywhere(folder: Path, page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        for name in ("src", "srcset", "href", "xlink:href", "data", "action", "poster"):
            address = attributes.get(name) or "#"
            fine = address.startswith(("#", "data:image/"))
            assert fine or (tag == "a" and address.startswith("https://")), (tag, address)
    text = (folder / "report.html").read_text("utf-8")
    assert not re.search(r"@import|url\((?!#)|\bfetch\(|XMLHttpRequest|import\(", text)
    assert "default-src 'none'" in text


def test_the_html_is_balanced_and_its_links_lead_somewhere(page: Page) -> None:
    assert not page.unbalanced
    assert not page.open
    ids = [value for _, attributes in page.tags if (value := attributes.get("id"))]
    assert len(ids) == len(set(ids))
    inner = {
        str(address)[1:]
        for _, attributes in page.tags
        if str(address := attributes.get("href", "")).startswith("#")
    }
    assert inner <= set(ids)


def test_every_picture_and_scroll_box_has_words(page: Page) -> None:
    for tag, attributes in page.tags:
        if tag == "img":
            assert attributes.get("alt")
        if tag in {"svg", "canvas"}:
            assert attributes.get("aria-label")
        if attributes.get("tabindex"):
            assert attributes.get("aria-label")


def test_the_same_contents_give_the_same_bytes(
    folder: Path, contents: ReportContents, tmp_path: Path
) -> None:
    write_report(tmp_path, contents)
    for path in sorted(tmp_path.rglob("*.*")):
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes(), path.name


def test_what_an_earlier_report_had_and_this_one_lacks_goes_away(
    folder: Path, contents: ReportContents, tmp_path: Path
) -> None:
    later = shutil.copytree(folder, tmp_path / "later")
    (later / "figures" / "own.png").write_bytes(b"mine")
    primary = contents.effects[contents.effects["measure"] == PRIMARY_MEASURE]
    names = ("title", "contrast", "attribute", "verdict", "verdicts", "measures")
    kept = {name: getattr(contents, name) for name in names}
    write_report(later, ReportContents(**kept, effects=primary))
    figures = {path.stem for path in (later / "figures").iterdir()}
    assert {"forest", "own"} <= figures
    assert not figures & {"calibration", "map", "heights", "pairs", "training"}
    assert not (later / "tables" / "fit.tsv").exists()
    assert (later / "tables" / "trust.tsv").exists()


def test_the_page_stays_below_25_mb_with_as_many_pairs_as_the_viewer_takes(folder: Path) -> None:
    text = (folder / "report.html").read_text("utf-8")
    pairs = re.findall(r'<script type="application/json" id="pair-.*?</script>', text, re.DOTALL)
    assert len(text.encode()) - sum(map(len, pairs)) + MAX_BYTES < 24e6


def test_every_number_of_the_page_is_in_the_table_that_it_names(folder: Path) -> None:
    traced = trace_numbers(folder)
    assert {"maps.tsv", "statistics.tsv", "truth.tsv", "tables/fit.tsv", "tables/trust.tsv"} <= set(
        traced
    )
    assert sum(traced.values()) > 500


def test_a_number_that_is_in_no_table_is_noticed(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    page = tmp_path / "copy" / "report.html"
    text = page.read_text("utf-8")
    at = text.index('data-value="', text.index('data-source="maps.tsv"')) + len('data-value="')
    page.write_text(f"{text[:at]}7{text[at:]}")
    with pytest.raises(AssertionError, match=r"is not in maps.tsv"):
        trace_numbers(tmp_path / "copy")


def test_the_text_of_a_cell_is_its_value_rounded(page: Page) -> None:
    cells = [cell for cell in page.tables["primary-table"] if "data-low" in cell]
    assert len(cells) == 13 * 4
    for cell in cells:
        low, high = float(cell["data-low"]), float(cell["data-high"])
        assert words.interval(low, high, "HU") in cell["text"]
        if "cover 0" not in cell["text"]:
            value = words.number(float(cell["data-value"]), "HU", sign=True)
            assert cell["text"].startswith(value)


def test_it_is_said_how_many_placebos_their_intervals_are_of(contents: ReportContents) -> None:
    page = page_of(contents)
    trust = trust_facts(contents)
    assert trust is not None and trust["intervals"] > trust["placebos"] == 2
    assert "The intervals are of 2 placebos; those of one placebo in several regions" in page
    assert "2 placebos, 8 intervals after debiasing; those of one placebo are correlated" in page


def test_whether_the_pairs_are_sound_is_said_where_it_was_asked(
    contents: ReportContents,
) -> None:
    page = page_of(contents)
    assert "Are the pairs sound?" in page and "0.62 [0.5, 0.74] of the step" in page
    assert "Are the pairs sound?" not in page_of(dataclasses.replace(contents, evaluation=None))


def test_a_statistic_without_an_interval_has_a_dash(contents: ReportContents) -> None:
    assert contents.statistics is not None
    few = contents.statistics.assign(ci_low=np.nan, ci_high=np.nan)
    without = dataclasses.replace(contents, statistics=few)
    numbers = numbers_of(without)
    cells = Page(render(without, {}, numbers)).tables["statistics-table"]
    shown = [cell for cell in cells if "data-low" in cell]
    assert shown and all(cell["data-low"] == cell["data-high"] == "" for cell in shown)
    assert all(cell["text"].endswith(words.MISSING) and cell["data-value"] for cell in shown)
    document = json.loads(report_json(without, {}, {}, numbers), parse_constant=forbid)
    assert {row["ci_low"] for row in document["statistics"]} == {None}


def test_the_four_numbers_stand_side_by_side(contents: ReportContents) -> None:
    rows = {(row["measure"], row["region"]): row for row in effect_table(contents)}
    upper = rows["mean_hu", "upper"]
    table = contents.effects.query("measure == 'mean_hu' and region == 'upper'")
    by_kind = table.groupby("kind")["effect"]
    assert upper["debiased"]["effect"] == by_kind.get_group("debiased").item()
    assert upper["placebo_low"] == by_kind.get_group("placebo").min()
    assert upper["placebo_high"] == by_kind.get_group("placebo").max()
    assert upper["placebos"] == 2
    assert next(iter(rows)) == ("mean_hu", "lungs")


def test_the_mixed_model_and_the_calibrated_p_are_on_the_page(
    folder: Path, contents: ReportContents
) -> None:
    page = (folder / "report.html").read_text("utf-8")
    rows = mixed_rows(contents)
    assert f'data-value="{rows[0]["effect"]}"' in page and "over subject, fold and seed" in page
    assert "p 0.012" in page and "root mean square of 2 placebos" in page
    assert {row["paired"]["kind"] for row in rows} == {"model_implied"}


def test_the_placebos_convict_a_model_that_makes_much_of_nothing(
    build: Build, contents: ReportContents
) -> None:
    effects = contents.effects.copy()
    placebo = effects["kind"] == "placebo"
    effects.loc[placebo, ["effect", "ci_low", "ci_high"]] = [9.0, 8.0, 10.0]
    debiased = effects["kind"] == "placebo_debiased"
    effects.loc[debiased, ["effect", "ci_low", "ci_high"]] = [1.0, -8.0, 10.0]
    facts = trust_facts(build(effects=effects))
    assert facts is not None
    assert (facts["missed"], facts["intervals"]) == (20, 20)
    assert (facts["missed_debiased"], facts["largest"]) == (0, 9.0)


def test_report_json_holds_what_the_page_shows(folder: Path, contents: ReportContents) -> None:
    document = json.loads((folder / "report.json").read_text("utf-8"), parse_constant=forbid)
    assert document["schema_version"] == 1
    assert len(document["effects"]) == len(contents.effects)
    fields = {field.name for field in dataclasses.fields(contents)} - {
        "measures",
        "qc",
        "summaries",
    }
    assert fields <= set(document)
    assert document["levels"] == ["never smoker", "current smoker"]
    for figure in document["figures"]:
        for file in figure["files"].values():
            assert (folder / file).is_file()


def test_report_json_follows_the_published_schema(folder: Path, contents: ReportContents) -> None:
    schema = json.loads(SCHEMA_PATH.read_text("utf-8"))
    document = json.loads((folder / "report.json").read_text("utf-8"))
    assert set(schema["properties"]) == set(document) == set(schema["required"])
    assert schema["properties"]["schema_version"]["const"] == document["schema_version"]
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)
    bare = {name: getattr(contents, name) for name in FEWEST}
    least = ReportContents(**bare)
    jsonschema.validate(json.loads(report_json(least, {}, {}, numbers_of(least))), schema)
    document["effects"][0]["kind"] = "guessed"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)


def test_what_comes_from_tables_cannot_become_markup(
    build: Build, contents: ReportContents
) -> None:
    contrast = f"smoking: {HOSTILE} -> current smoker"
    pair = dataclasses.replace(
        contents.pairs[0], subject=HOSTILE, reference_sentence=HOSTILE, target_sentence=HOSTILE
    )
    text = page_of(
        build(
            title=HOSTILE,
            contrast=contrast,
            effects=contents.effects.replace({"contrast": {contents.contrast: contrast}}),
            verdict=[HOSTILE],
            verdicts=contents.verdicts.assign(sentence=HOSTILE, verdict=HOSTILE),
            cohort=[{"attribute": HOSTILE, "coverage": 1.0, "levels": {HOSTILE: 3}}],
            failures=[{"subject": HOSTILE, "reason": HOSTILE}],
            pairs=[pair],
            provenance={HOSTILE: HOSTILE},
            methods={"describe": {"encoder": HOSTILE}},
            intended_use=[HOSTILE],
        )
    )
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    page = Page(text)
    assert not page.unbalanced
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert html.escape(HOSTILE, quote=False).split("&lt;img")[0] in text
    packed = re.search(r'<script type="application/json" id="pair-0">(.*?)</script>', text, re.S)
    assert packed and json.loads(packed[1])["subject"] == HOSTILE


def test_the_fewest_contents_still_make_a_report(contents: ReportContents) -> None:
    bare = ReportContents(**{name: getattr(contents, name) for name in FEWEST})
    text = page_of(bare)
    page = Page(text)
    assert not page.unbalanced
    assert 'id="viewer"' not in text
    assert 'id="truth"' not in text
    assert "research use only" in text


def test_an_analysis_without_any_effect_says_so_and_no_more(contents: ReportContents) -> None:
    empty = ReportContents(
        title="Nothing could be measured",
        contrast=contents.contrast,
        attribute="smoking",
        verdict=["No effect could be measured."],
        verdicts=contents.verdicts.iloc[:0],
        effects=contents.effects.iloc[:0],
        measures=contents.measures.iloc[:0],
    )
    text = page_of(empty)
    assert "No effect could be measured." in text
    assert 'id="numbers"' not in text


def test_missing_effects_are_dashes(build: Build, contents: ReportContents) -> None:
    effects = contents.effects.copy()
    numbers = ["n", "effect", "ci_low", "ci_high", "p", "p_adjusted"]
    effects.loc[effects["region"] == "upper", numbers] = np.nan
    contents = build(effects=effects)
    text = page_of(contents)
    assert not re.search(r">\s*nan\b|nan to|None<", text)
    json.loads(report_json(contents, {}, {}, numbers_of(contents)), parse_constant=forbid)


def test_failures_and_guidance_are_said_at_the_top(build: Build) -> None:
    text = page_of(build(guidance_scale=3.0))
    summary = text[text.index('id="summary"') : text.index('id="numbers"')]
    assert "1 subject failed" in summary
    assert "Guidance scale 3.00" in summary
    assert "truncated file: 1.2 of 3.4 MB" in text


def test_a_picture_that_cannot_be_read_is_named(build: Build, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    text = page_of(build(qc=[("ph-0042", broken), ("ph-0043", tmp_path / "absent.png")]))
    assert "No picture could be read for ph-0042, ph-0043." in text


def test_a_contrast_that_was_not_analysed_is_refused(build: Build) -> None:
    with pytest.raises(DgmvlcError, match="no contrast 'smoking: a -> b'"):
        build(contrast="smoking: a -> b")
    with pytest.raises(DgmvlcError, match="expected 'attribute: from -> to'"):
        build(contrast="smoking")


def test_a_table_without_its_columns_is_refused(build: Build, contents: ReportContents) -> None:
    with pytest.raises(DgmvlcError, match="effects lacks kind"):
        build(effects=contents.effects.drop(columns="kind"))


def dump_dom(path: Path, profile: Path, *more: str) -> str:
    """The page after its scripts have run, from a headless Chromium that may not reach out."""
    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium on this machine")
    flags = ["--virtual-time-budget=5000", "--window-size=1400,900", "--dump-dom", *more]
    done = subprocess.run(
        [*browser_command(browser, profile), *flags, path.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"Chromium does not start here: {done.stderr[-200:]}")
    return done.stdout


DRIVER = """
<script>
const said = {};
const wait = () => new Promise((done) => setTimeout(done, 60));
const pixel = (name) => {
  const canvas = document.querySelector(`[data-panel=${name}] canvas`);
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let sum = 0;
  for (let i = 0; i < data.length; i += 4) sum += data[i] * (1 + (i % 97));
  return sum;
};
const place = () => document.querySelector(".viewer .place").textContent;
const press = (key) => document.querySelector(".viewer .panels").dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true }));
const choose = (selector, value) => {
  const input = document.querySelector(selector);
  if (value === undefined) input.checked = true; else input.value = value;
  input.dispatchEvent(new Event("change", { bubbles: true }));
};
(async () => {
  for (let i = 0; i < 40 && !place().startsWith("Slice 7"); i += 1) await wait();
  said.start = place();
  const before = ["reference", "target", "difference", "real"].map(pixel);
  press("ArrowUp"); said.up = place();
  const moved = ["reference", "target", "difference", "real"].map(pixel);
  said.linked = moved.every((value, i) => value !== before[i]);
  press("End"); said.end = place();
  press("Home"); said.home = place();
  choose("[name=plane][value=axial]"); said.axial = place();
  const lung = pixel("reference");
  choose("[name=window][value=Mediastinum]");
  said.windowed = pixel("reference") !== lung;
  const cold = pixel("difference");
  choose("[name=limit]", "200"); said.scaled = pixel("difference") !== cold;
  const canvas = document.querySelector("[data-panel=target] canvas");
  const box = canvas.getBoundingClientRect();
  canvas.dispatchEvent(new PointerEvent("pointermove", { bubbles: true,
    clientX: box.left + box.width / 3, clientY: box.top + box.height / 2 }));
  said.readings = [...document.querySelectorAll(".panel output")].map((one) => one.textContent);
  choose("[name=subject]", "1"); await wait(); await wait();
  said.subject = window.viewer.pair.subject;
  document.querySelector("#effects-table th button").click();
  said.sorted = document.querySelector("#effects-table th").getAttribute("aria-sort");
  document.body.dataset.said = JSON.stringify(said);
})();
</script>
"""


def test_the_viewer_is_driven_by_keyboard_mouse_and_choosers(
    folder: Path, contents: ReportContents, tmp_path: Path
) -> None:
    """A real browser runs a script that does what a reader does and notes what the page shows."""
    text = (folder / "report.html").read_text("utf-8")
    page = tmp_path / "driven.html"
    page.write_text(text.replace("</body>", DRIVER + "</body>"), "utf-8")
    dom = dump_dom(page, tmp_path / "profile")
    found = re.search(r'data-said="([^"]*)"', dom)
    assert found, "the driver did not finish"
    said = json.loads(html.unescape(found[1]))
    number = r"Slice (\d+) of (\d+)"
    start, up = (int(re.match(number, said[key])[1]) for key in ("start", "up"))
    assert up == start + 1 and said["linked"]
    assert said["end"].startswith("Slice 14 of 14") and said["home"].startswith("Slice 1 of 14")
    assert re.match(number, said["axial"])[2] == "20"
    assert said["windowed"] and said["scaled"]
    reference, target, difference, _ = (
        int(re.sub(r"[^-\d]", "", one.replace("−", "-"))) for one in said["readings"]
    )
    assert all(one.endswith("HU here") for one in said["readings"])
    assert difference == pytest.approx(target - reference, abs=2)
    assert said["subject"] == contents.pairs[1].subject
    assert said["sorted"] == "ascending"


def asked_by(page: Path, folder: Path) -> set[str]:
    """Addresses that a file asked of the network, from the browser's own log of it."""
    log = folder / f"{page.stem}.net.json"
    dump_dom(page, folder / f"{page.stem}.profile", f"--log-net-log={log}")
    text = log.read_text("utf-8", errors="replace")
    # The browser asks for updates of its own; what a file asks is filed under file://.
    pattern = r'"network_isolation_key":"file:.*?"url":"(https?://[^"]*)"'
    return {found[1] for line in text.splitlines() if (found := re.search(pattern, line))}


def test_nothing_is_asked_of_the_network_by_a_real_browser(folder: Path, tmp_path: Path) -> None:
    leak = tmp_path / "leak.html"
    leak.write_text('<!doctype html><img src="http://127.0.0.1:9/x.png">')
    assert asked_by(leak, tmp_path) == {"http://127.0.0.1:9/x.png"}
    assert asked_by(folder / "report.html", tmp_path) == set()


@pytest.mark.parametrize("width", [390, 820, 1400])
def test_nothing_is_wider_than_the_screen(folder: Path, tmp_path: Path, width: int) -> None:
    script = (
        "<script>addEventListener('load', () => setTimeout(() => { document.body.dataset.wide = "
        "`${document.documentElement.scrollWidth} ${innerWidth}`; }, 300));</script>"
    )
    text = (folder / "report.html").read_text("utf-8")
    page = tmp_path / "wide.html"
    # A headless window has a least width, a frame has none.
    page.write_text(text.replace("</body>", script + "</body>"), "utf-8")
    frame = tmp_path / "frame.html"
    source = html.escape(page.read_text("utf-8"), quote=True)
    frame.write_text(
        f"<!doctype html><body style='margin:0'><iframe width='{width}' height='900' "
        f"style='border:0' srcdoc=\"{source}\"></iframe><script>setTimeout(() => {{ "
        "document.body.dataset.seen = document.querySelector('iframe').contentDocument.body"
        ".dataset.wide; }, 2500);</script>",
        "utf-8",
    )
    dom = dump_dom(frame, tmp_path / "profile")
    found = re.search(r'data-seen="(\d+) (\d+)"', dom)
    assert found
    assert int(found[2]) == width
    assert int(found[1]) <= width


def test_without_scripts_pictures_and_tables_are_whole(page: Page, folder: Path) -> None:
    text = (folder / "report.html").read_text("utf-8")
    static = text[text.index('class="static-pairs"') :]
    assert static.index("<svg") < static.index("</figure>")
    css = text[text.index("<style>") : text.index("</style>")]
    # The viewer appears, and what scripts alone can move, only once a script has run.
    assert re.search(r"\.viewer \{ display: none", css) and ".js .viewer { display: block" in css
    assert re.search(r"\.filters \{ display: none", css)
    assert len(page.tables["effects-table"]) > 200


def test_the_viewer_and_the_tables_come_alive(
    folder: Path, contents: ReportContents, tmp_path: Path
) -> None:
    dom = dump_dom(folder / "report.html", tmp_path)
    assert re.search(r"Slice \d+ of 14, \d+ mm", dom)
    assert "39 of 39 rows" in dom
    pair = contents.pairs[0]
    means = [words.number(round(float(a[pair.lung].mean())), "mL") for a in (pair.reference_hu,)]
    assert f"lungs {means[0]} HU" in dom
    assert "<mark>current</mark>" in dom


def test_pictures_of_flagged_scans_are_shown_first(tmp_path):
    paths = [(f"s{i:02d}", tmp_path / f"{i}.png") for i in range(60)]
    for _, path in paths:
        Image.new("RGB", (8, 4)).save(path)
    shown, unreadable = qc_thumbnails(paths, {"s51", "s17"})
    names = [subject for subject, _ in shown]
    assert names[:2] == ["s17", "s51"] and not unreadable
    assert len(names) == len(set(names)) == MAX_THUMBNAILS
    assert names[2] == "s00" and names[-1] == "s59"
