"""A chat as text, ids and places, and the choice among its tokens, against plain references."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from token_world import DOCUMENT, FACTS, PROMPT, TEMPLATE

from tokenprune_server.protocols.base import Rules
from tokenprune_server.protocols.chat import ChatProtocol
from tokenprune_server.tokens.render import ChatTemplate, Rendered, UnreadableChatError
from tokenprune_server.tokens.select import best, by_characters, by_sentence, gaps

CHAT = ChatProtocol()


def chat(*contents):
    return {"messages": [{"role": "user", "content": content} for content in contents]}


def spans_of(body):
    return CHAT.locate(body, Rules(20)).jobs[0].spans


def read(tokenizer, body):
    return ChatTemplate(tokenizer).read(body, spans_of(body), CHAT)


def test_documents_are_found_where_they_stand(tokenizer):
    prompt = read(tokenizer, chat(PROMPT))
    (place,) = prompt.places
    assert prompt.text[place.start : place.end] == DOCUMENT
    inside = prompt.inside_of(place)
    assert inside.sum() > 500
    assert not inside[:4].any()
    assert tokenizer.decode(np.asarray(prompt.ids)[inside].tolist()).strip() in DOCUMENT


def test_the_question_is_the_last_one_outside_the_documents(tokenizer):
    asked = "Where is it?"
    content = f"Question: {asked}\n\nContext:\n{DOCUMENT} {asked} {DOCUMENT}\n\nQuestion: {asked}\nAnswer:"
    body = chat(content)
    prompt = ChatTemplate(tokenizer).read(body, spans_of(body), CHAT)
    window = prompt.question(asked)
    at = prompt.text.rindex(asked)
    assert prompt.begins[window[0]] <= at < prompt.ends[window[0]]
    assert prompt.ends[window[-1]] >= at + len(asked)
    assert prompt.question("What nobody asks") == ()
    assert prompt.question("") == ()


def test_parts_of_text_are_read_and_others_refused(tokenizer):
    text = {"type": "text", "text": PROMPT}
    body = {"messages": [{"role": "user", "content": [text, {"type": "text", "text": "Which one?"}]}]}
    prompt = read(tokenizer, body)
    assert prompt.text.count(DOCUMENT) == 1
    body["messages"][0]["content"].append({"type": "image_url", "image_url": {"url": "data:"}})
    with pytest.raises(UnreadableChatError) as caught:
        read(tokenizer, body)
    assert caught.value.reason == "not-text"


def test_a_request_cannot_bring_its_own_template(tokenizer):
    body = chat(PROMPT) | {"chat_template_kwargs": {"chat_template": "{{ messages[0].content }}"}}
    with pytest.raises(UnreadableChatError, match="must not hold 'chat_template'"):
        read(tokenizer, body)
    assert read(tokenizer, chat(PROMPT) | {"chat_template_kwargs": {"enable_thinking": False}}).places


@pytest.mark.parametrize(
    "template",
    [
        TEMPLATE.replace("{{ message['content'] }}", "{{ message['content'] | upper }}"),
        TEMPLATE.replace("{{ message['content'] }}", "{{ message['content'][:300] }}"),
        TEMPLATE.replace("{{ message['content'] }}", "{{ message['content'] ~ message['content'] }}"),
        TEMPLATE.replace("{{ message['content'] }}", "{{ message['content'] | length }}"),
        "{{ raise_exception('no') }}",
        "{{ undefined.thing.at_all }}",
    ],
)
def test_templates_that_change_the_text_are_refused(tokenizer, template):
    changed = ChatTemplate(tokenizer)
    body = chat(PROMPT)
    before, tokenizer.chat_template = tokenizer.chat_template, template
    try:
        with pytest.raises(UnreadableChatError) as caught:
            changed.read(body, spans_of(body), CHAT)
    finally:
        tokenizer.chat_template = before
    assert caught.value.reason == "template"


def test_a_template_that_trims_is_no_change(tokenizer):
    body = chat("  " + PROMPT + " \n")
    before = tokenizer.chat_template
    tokenizer.chat_template = TEMPLATE.replace("{{ message['content'] }}", "{{ message['content'] | trim }}")
    try:
        prompt = ChatTemplate(tokenizer).read(body, spans_of(body), CHAT)
    finally:
        tokenizer.chat_template = before
    assert [prompt.text[p.start : p.end] for p in prompt.places] == [DOCUMENT]


TEXTS = st.text(st.sampled_from("ab c.\n\t é\u0301👩‍👧日本ß½\u200b<|im_end|>12"), max_size=40)


def test_kept_sentences_do_not_run_together():
    """The paragraph's last sentence goes, and the space behind it stays where there is room for it."""
    pieces = ["One", ".", " Two", ".", "\n", "\n", "Three", ".", "\n", "Four", "."]
    edges = np.cumsum([0, *map(len, pieces)])
    prompt = Rendered.of("".join(pieces), list(range(11)), np.stack([edges[:-1], edges[1:]], axis=1))
    chosen = np.asarray([True, True, False, False, False, False, True, True, False, True, True])
    free = np.ones(11, dtype=bool)
    assert np.flatnonzero(gaps(prompt, chosen, free, 20)).tolist() == [5, 8]
    assert np.flatnonzero(gaps(prompt, chosen, free, 7)).tolist() == [5]
    assert not gaps(prompt, chosen, free, 6).any()
    # A kept stretch with a space of its own needs none, and what is no document is not touched.
    chosen[2:4] = True
    chosen[0:2] = chosen[6:8] = False
    assert np.flatnonzero(gaps(prompt, chosen, free, 20)).tolist() == [8]
    free[8] = False
    assert not gaps(prompt, chosen, free, 20).any()


@given(TEXTS, st.randoms())
def test_whole_groups_are_whole_characters(tokenizer, text, draw):
    """Whatever groups go, the ids that stay decode to the characters of their tiles."""
    prompt = Rendered.of(text, *ChatTemplate(tokenizer).encode(text))
    assert prompt.begins.tolist() == [0, *prompt.ends[:-1].tolist()][: len(prompt.ids)]
    stay = {group for group in set(prompt.groups.tolist()) if draw.random() < 0.5}
    keep = [group in stay for group in prompt.groups.tolist()]
    ids = [token for token, kept in zip(prompt.ids, keep, strict=True) if kept]
    tiles = [text[a:b] for a, b, kept in zip(prompt.begins, prompt.ends, keep, strict=True) if kept]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == "".join(tiles)


@st.composite
def _choices(draw):
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=12))
    groups = np.repeat(np.arange(len(sizes)), sizes)
    scores = draw(st.lists(st.integers(0, 4), min_size=len(groups), max_size=len(groups)))
    open_groups = draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    return np.asarray(scores, dtype=float), np.asarray(open_groups)[groups], groups, draw(st.integers(1, 20))


@given(_choices())
def test_the_best_groups_stay(choice):
    scores, free, groups, count = choice
    keep = best(scores, free, groups, count)
    assert keep.sum() <= count
    assert not (keep & ~free).any()
    # A plain loop: best group first, earlier of equals, those that fit.
    value = {g: max(scores[groups == g]) for g in set(groups[free].tolist())}
    expected, room = set(), count
    for group in sorted(value, key=lambda g: (-value[g], g)):
        size = int((groups == group).sum())
        if size <= room:
            expected.add(group)
            room -= size
    assert set(groups[keep].tolist()) == expected


def test_sentences_go_as_a_whole(tokenizer):
    prompt = read(tokenizer, chat(PROMPT))
    (place,) = prompt.places
    inside = prompt.inside_of(place)
    groups = by_sentence(prompt)
    assert (np.diff(groups) >= 0).all()
    assert len(set(groups[inside].tolist())) == len(FACTS)
    for number, fact in zip(sorted(set(groups[inside].tolist())), FACTS, strict=True):
        ids = np.asarray(prompt.ids)[inside & (groups == number)].tolist()
        assert tokenizer.decode(ids).strip() == fact
    at = 7
    scores = np.where(inside & (groups == sorted(set(groups[inside].tolist()))[at]), 1.0, 0.0)
    keep = best(scores, inside, groups, 40)
    assert FACTS[at] in tokenizer.decode(np.asarray(prompt.ids)[keep].tolist())


def _cut(text, edges):
    ends = sorted({*(e for e in edges if 0 < e < len(text)), len(text)})
    offsets = np.asarray(list(zip([0, *ends[:-1]], ends, strict=True)), dtype=np.int64)
    return Rendered.of(text, list(range(len(ends))), offsets)


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)), st.randoms())
def test_scores_by_characters(a, b, draw):
    text = "x" * 30
    own, other = _cut(text, a), _cut(text, b)
    scores = np.asarray([draw.random() for _ in own.ids])
    found = by_characters(scores, own, other)
    for n in range(len(other.ids)):
        shared = [
            scores[m]
            for m in range(len(own.ids))
            if own.begins[m] < other.ends[n] and own.ends[m] > other.begins[n]
        ]
        assert found[n] == max(shared)
