"""Other packages under the interface of `tokenprune bench quality`."""

import pytest

from benchmarks.html.peers import PeerMissing
from benchmarks.rag_peers import methods
from benchmarks.rag_peers.run import section
from tokenprune.bench.case import Case
from tokenprune.bench.tradeoff import WARM, Item, measure, parse_budget
from tokenprune.budget import Budget
from tokenprune.document import Document
from tokenprune.errors import ConfigError
from tokenprune.pipeline import Pipeline
from tokenprune.tokens import get_counter

FACT = "The needle lies under the red chair."
PAGE = f"<html><body><p>{'Dogs bark at the moon. ' * 150}</p><p>{FACT}</p></body></html>"
CASE = Item(
    Case("c", ({"role": "user", "content": PAGE},), "Where is the needle?", ("chair",), (FACT,)),
    (Document(PAGE, kind="html"),),
)


def head(question, page, limit):
    return page[:limit]


def test_a_peer_is_measured_beside_ours():
    counter = get_counter()
    peer = methods.Peer("head", head, "text", counter)
    chunks = methods.peer("chunks-bm25", counter)
    ours = Pipeline(["bm25-sentences"])
    result = measure([CASE], {"ours": ours, "head": peer, "chunks": chunks}, [parse_budget("200")])
    rows = {row.method: row for row in result.rows}
    assert rows["ours"].evidence == rows["chunks"].evidence == 1 and rows["head"].evidence == 0
    assert rows["head"].tokens == counter.count(PAGE[:200]) and rows["chunks"].tokens <= 200
    assert rows["head"].kept == pytest.approx(rows["head"].tokens / rows["full"].tokens)
    about = {"workload": "w", "cases": 1, "notes": "skipped x: not here"}
    text = section(result, about)
    assert "## w, 1 requests" in text and "- skipped x: not here" in text
    assert text.count("\n|") == 2 + len(result.rows)
    assert f"|head @ 200 *|{rows['head'].tokens:.0f}|" in text  # the fewest tokens of all


def test_pages_of_a_request_are_joined_and_failures_counted():
    seen = []

    def broken(question, page, limit):
        seen.append((question, page, limit))
        raise IndexError("no block")

    peer = methods.Peer("broken", broken, "html", get_counter())
    pages = [Document("<p>one two", kind="html"), Document("<p>three", kind="html")]
    peer.prune(WARM, pages, Budget(keep_ratio=0.5))
    assert not peer.failures
    result = peer.prune("Q?", pages, Budget(max_tokens=7))
    assert seen[-1] == ("Q?", "<p>one two\n<p>three", 7)
    assert peer.failures == ["IndexError: no block"] and result.documents[0].text == ""
    assert result.tokens_after == 0 < result.tokens_before
    with pytest.raises(ConfigError, match="broken needs a budget"):
        peer.prune("Q?", pages, Budget())


def test_what_is_not_installed_is_named(monkeypatch):
    def missing(counter):
        raise PeerMissing("not here")

    monkeypatch.setitem(methods.PAGES, "gone", (missing, "html"))
    notes = []
    found = methods.methods(["none"], ["gone", "chunks-bm25"], get_counter().name, notes.append)
    assert list(found) == ["none", "chunks-bm25"] and notes == ["skipped gone: not here"]
