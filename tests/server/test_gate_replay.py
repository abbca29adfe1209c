"""What was sent before is sent again only where that is right: same question asked, same shape, and it fits."""

import pytest
from gate_world import CachingUpstream, MarkConfig, asks, chat, document, prompt, proxies, user

from tokenprune_server import room
from tokenprune_server.gate import Gate
from tokenprune_server.room import count

PAGE = (
    "<!DOCTYPE html><html><body>"
    + "".join(f"<p>{x}</p>\n" for x in document(1).split("\n"))
    + "</body></html>"
)
GIVEN = user(PAGE)
ANSWER = {"role": "assistant", "content": "Read."}


@pytest.fixture
def start(serve):
    with proxies(serve) as begin:
        yield begin


def kept(body):
    return str(body["messages"])


def test_a_document_in_a_message_of_its_own_is_not_that_of_another_question(start):
    proxy = start()
    for k in (3, 8):
        proxy.send(chat(GIVEN, user(asks(1, k))))
        assert f"mark1x{k} saw" in kept(proxy.last)
    assert proxy.decisions[0] == "pruned"


def test_nor_is_one_behind_an_answer_that_another_client_had(start):
    proxy = start()
    for k in (3, 8):
        proxy.send(chat(GIVEN, ANSWER, user(asks(1, k))))
        assert f"mark1x{k} saw" in kept(proxy.last)


def test_a_conversation_keeps_what_its_own_question_left(start):
    proxy = start()
    first = [GIVEN, user(asks(1, 3))]
    proxy.send(chat(*first))
    sent = proxy.last["messages"]
    assert "mark1x8 saw" not in kept(proxy.last)
    proxy.send(chat(*first, ANSWER, user("And what is the colour of the castle?")))
    assert proxy.last["messages"][:2] == sent
    proxy.send(chat(*first))  # a repeat
    assert proxy.last["messages"] == sent


@pytest.mark.parametrize("first", ["list", "string"])
def test_the_same_text_in_another_shape_is_another_turn(start, first):
    proxy = start()
    text = prompt(document(1), asks(1, 3))
    shapes = {"list": [{"type": "text", "text": text}], "string": text}
    for name in (first, *(name for name in shapes if name != first)):
        proxy.send(chat(user(shapes[name]), ANSWER, user("And the castle?")))
        assert type(proxy.last["messages"][0]["content"]) is type(shapes[name])


class Small(CachingUpstream):
    """Its model holds few tokens."""

    async def answer(self, send, content):
        if "data" in content:
            content = {"data": [{"id": "m", "max_model_len": 3000}]}
        await super().answer(send, content)


def test_a_chat_that_outgrew_the_model_is_pruned_anew(start):
    proxy = start(Small())
    whole = {"tokenprune": {"enabled": False}}
    turns = [user(prompt(document(1), asks(1, 3)))]
    proxy.send(chat(*turns, **whole))
    assert "mark1x8 saw" in kept(proxy.last)
    filler = "The castle was seen by the keeper of the lamp. " * 90
    turns += [{"role": "assistant", "content": filler}, user("What did mark1x3 see?")]
    proxy.send(chat(*turns, max_tokens=300))
    assert proxy.decisions[-1] == "pruned"
    assert "mark1x8 saw" not in kept(proxy.last) and "mark1x3 saw" in kept(proxy.last)


def test_the_prompt_is_counted_once(start, monkeypatch):
    counted = []
    monkeypatch.setattr(
        room, "count", lambda counter, texts: counted.append(len(texts)) or count(counter, texts)
    )
    proxy = start(Small())
    turns = [user(prompt(document(1), asks(1, 3)))]
    proxy.send(chat(*turns, max_tokens=300))
    turns += [ANSWER, user(prompt(document(2), asks(2, 3)))]
    counted.clear()
    proxy.send(chat(*turns, max_tokens=300))
    assert proxy.decisions == ["pruned", "pruned"]
    assert counted == [3, 0], "the messages, and no contexts"


class BreaksOnce(MarkConfig):
    """Its first prune fails."""

    def build(self, name="default", output=None):
        made = super().build(name, output)
        if not self.broken:
            return made
        self.broken = False
        made.name = "broken"
        return made


def test_a_failure_is_no_precedent(start):
    upstream = CachingUpstream()
    config = BreaksOnce(upstream.clock)
    config.broken = False
    proxy = start(upstream, config)
    config.broken = True
    body = chat(user(prompt(document(1), asks(1, 3))), tokenprune={"max_tokens": 300})
    proxy.send(body)
    assert proxy.decisions[-1].startswith("failed:")
    proxy.send(body)
    assert proxy.decisions[-1] == "pruned" and "mark1x8 saw" not in kept(proxy.last)


def test_a_fault_of_the_gate_loses_no_request(start, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("the gate is broken")

    monkeypatch.setattr(Gate, "weigh", broken)
    proxy = start()
    body = chat(user(prompt(document(1), asks(1, 3))))
    proxy.send(body)
    assert proxy.decisions == ["failed:ZeroDivisionError"] and proxy.last == body
