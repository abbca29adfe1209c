"""Reports made again from what is on disk, and of several runs."""

import io
import json

import pytest
from rich.console import Console

from tokenprune.bench import published, runs
from tokenprune.bench.ttft import show
from tokenprune.errors import MeasureError

PROXY = {"keep": 0.25, "prune_ms": lambda n: 8.0}


def screen():
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def pair(stub, clock):
    return stub(a=20, b=0.1, clock=clock), stub(a=20, b=0.1, clock=clock, **PROXY)


def test_the_report_can_be_made_again(pair, measured, make_case, tmp_path):
    model, proxy = pair
    cases = [make_case(f"c{n}", n) for n in (200, 400, 800, 1600)]
    report, _, html = measured(model.url, proxy.url, cases, rounds=2, goodput={"ttft": 60.0})
    asked = len(model.requests) + len(proxy.requests)
    again = screen()
    show(tmp_path / "out", tmp_path / "again", again)
    assert json.loads((tmp_path / "again" / "report.json").read_text("utf-8")) == report
    assert _without_ids((tmp_path / "again" / "report.html").read_text("utf-8")) == _without_ids(html)
    assert len(model.requests) + len(proxy.requests) == asked
    assert "TTFT median, ms" in again.file.getvalue()


def _without_ids(html):  # matplotlib draws the ids of its clip paths by chance
    import re

    return re.sub(r'(id="|url\(#|xlink:href="#)[\w-]+', "", html)


def test_runs_of_several_lengths_become_one(pair, measured, make_case, tmp_path):
    model, proxy = pair
    folders = []
    for lengths in ((200, 230, 260), (800, 1000, 1200), (200, 230, 260)):
        measured(model.url, proxy.url, [make_case(f"c{n}", n) for n in lengths])
        folders.append((tmp_path / "out").rename(tmp_path / f"run{len(folders)}"))
        about = json.loads((folders[-1] / "run.json").read_text())
        about["settings"]["workload"] = f"w{lengths[0]}"  # the fixture gives all files one name
        (folders[-1] / "run.json").write_text(json.dumps(about))
    both = show(folders, tmp_path / "both", screen())
    assert (both["pairs"], both["cases"]) == (9, 6)
    assert both["settings"]["workload"] == "w200 and w800" and both["settings"]["rounds"] == 2
    assert [part["pairs"] for part in both["by_length"]] == [6, 3]
    assert both["direct"]["duration"] == pytest.approx(
        sum(json.loads((f / "report.json").read_text())["direct"]["duration"] for f in folders)
    )
    assert both["break_even"]["status"] != "unknown" and both["quality"]["direct"]["answers"] == 9
    ours = {one["work"]: one["ours"] for one in both["published"]}
    ratio = both["by_length"][1]["ttft_ratio"]
    assert f"{ratio:.2f}x at {both['by_length'][1]['tokens']:,.0f} tokens)" in ours["LazyLLM"]
    assert ours["headroom"] == "p50 8 ms" and ours["litellm"] is None
    page = (tmp_path / "both" / "report.html").read_text("utf-8")
    assert all(one.figure in page for one in published.PUBLISHED)


def test_runs_that_do_not_belong_together(pair, measured, make_case, tmp_path):
    model, proxy = pair
    measured(model.url, proxy.url, [make_case("c", 100)])
    one = (tmp_path / "out").rename(tmp_path / "one")
    measured(model.url, proxy.url, [make_case("c", 100)], max_tokens=9)
    with pytest.raises(MeasureError, match="max_tokens is None in one and 9 in another"):
        show([one, tmp_path / "out"], tmp_path / "both", screen())
    with pytest.raises(MeasureError, match="holds no run: No such file"):
        show(tmp_path / "nowhere", tmp_path / "both", screen())


def test_a_killed_run_has_a_report(pair, measured, make_case, tmp_path):
    model, proxy = pair
    measured(model.url, proxy.url, [make_case(f"c{n}", n) for n in (200, 400)])
    out = tmp_path / "out"
    lines = (out / "rows.jsonl").read_text().splitlines()
    (out / "rows.jsonl").write_text("\n".join([*lines[:3], lines[3][:40]]))
    about = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(about | {"durations_s": {}, "planned": 0}))
    console = screen()
    report = show(out, out, console)
    assert report["pairs"] == 1 and report["direct"]["request_throughput"] is None
    assert "did not come to its end" in console.file.getvalue()
    (out / "rows.jsonl").write_text("\n".join([lines[0], "{}", lines[1]]))
    with pytest.raises(MeasureError, match=r"rows\.jsonl, line 2 is no row"):
        runs.read(out)
    (out / "rows.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(MeasureError, match=r"line 1 is no row"):
        runs.read(out)


def test_runs_of_several_seeds_keep_their_pairs(stub, clock, measured, make_case, tmp_path):
    """The same ids are other cases there."""
    folders = []
    for seed, a in ((1, 20), (2, 200)):
        model, proxy = (stub(a=a, b=0.1, clock=clock, **more) for more in ({}, PROXY))
        measured(model.url, proxy.url, [make_case(f"c{n}", n) for n in (400, 800)])
        folders.append((tmp_path / "out").rename(tmp_path / f"seed{seed}"))
        about = json.loads((folders[-1] / "run.json").read_text())
        about["settings"] |= {"seed": seed, "direct": "a", "proxy": "b"}
        (folders[-1] / "run.json").write_text(json.dumps(about))
    parts = [show([f], tmp_path / "one", screen()) for f in folders]
    both = show(folders, tmp_path / "both", screen())
    assert (both["pairs"], both["cases"]) == (4, 4)
    assert len({row["case"] for row in both["rows"]}) == 4
    low, high = sorted(part["ttft_difference_ms"] for part in parts)
    assert low <= both["ttft_difference_ms"] <= high


def test_groups_of_merged_runs_are_their_own(pair, measured, make_case, tmp_path):
    model, proxy = pair
    folders = []
    for workload in ("w1", "w2"):
        cases = [make_case(f"c{n}", n, group="g") for n in (200, 210, 220)]
        measured(model.url, proxy.url, cases, cache="warm")
        folders.append((tmp_path / "out").rename(tmp_path / workload))
        about = json.loads((folders[-1] / "run.json").read_text())
        about["settings"]["workload"] = workload
        (folders[-1] / "run.json").write_text(json.dumps(about))
    both = show(folders, tmp_path / "both", screen())
    assert {part["name"]: part["pairs"] for part in both["by_position"]} == {"first": 2, "later": 4}


def test_a_run_that_is_written_again_is_whole_at_any_time(pair, measured, make_case, tmp_path, monkeypatch):
    model, proxy = pair
    measured(model.url, proxy.url, [make_case("c", 200)])
    out = tmp_path / "out"
    run, before = runs.read(out), (out / "rows.jsonl").read_text()

    def die(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", die)
    with pytest.raises(KeyboardInterrupt):
        runs.write(run, out)
    assert (out / "rows.jsonl").read_text() == before
