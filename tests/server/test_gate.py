"""The gate in the three situations of prefix caches, and what was sent before."""

import itertools
import statistics

import pytest
from gate_world import (
    FOUR_QUESTIONS,
    NEW_EACH_TIME,
    CachingUpstream,
    about,
    asks,
    chat,
    document,
    growing_chat,
    prompt,
    proxies,
    unpruned,
    user,
)


@pytest.fixture
def start(serve):
    with proxies(serve) as begin:
        yield begin


_OTHER = {"role": "system", "content": "You are another application."}
ANOTHER_APPLICATION = [chat(_OTHER, user(prompt(document(90), asks(90, k)))) for k in (2, 5, 9)]  # with hits


class TestThreeSituations:
    """The median over what is prefilled stands for that of the time to the first token: it decides it."""

    def run(self, start, bodies, **settings):
        proxy = start(**settings)
        for body in bodies:
            proxy.send(body)
        return proxy

    def test_documents_with_four_questions(self, start):
        direct = unpruned(FOUR_QUESTIONS)
        without = self.run(start, FOUR_QUESTIONS, gate="off").upstream.uncached
        proxy = self.run(start, FOUR_QUESTIONS)
        uncached = proxy.upstream.uncached
        assert statistics.median(uncached) <= 1.05 * statistics.median(direct)
        assert statistics.median(without) > 3 * statistics.median(direct), "what the gate is there for"
        # Nobody knows at the first sight; from the second question on the document is cached.
        assert proxy.decisions[:2] == ["pruned", "skipped:shared"]
        assert uncached[:2] == [without[0], direct[0]]
        assert uncached[2:4] == direct[2:4]
        # Once hits were seen, documents that open a conversation are left for the cache from the beginning.
        assert proxy.decisions[4:] == (["skipped:reuse-expected"] + ["skipped:cached"] * 3) * 3
        assert uncached[4:] == direct[4:]

    def test_one_document_when_the_operator_knows_that_it_comes_again(self, start):
        bodies = FOUR_QUESTIONS[:4]
        proxy = self.run(start, bodies, reuse_prior=1.0)
        assert proxy.upstream.uncached == unpruned(bodies)
        assert proxy.decisions[0] == "skipped:reuse-expected"

    def test_a_growing_chat(self, start):
        bodies = growing_chat()
        proxy = self.run(start, bodies)
        assert statistics.median(proxy.upstream.uncached) <= statistics.median(unpruned(bodies))
        assert sum(proxy.upstream.uncached) < sum(unpruned(bodies)) / 4
        assert set(proxy.decisions) == {"pruned"}

    def test_a_new_document_each_time(self, start):
        proxy = self.run(start, NEW_EACH_TIME)
        assert set(proxy.decisions) == {"pruned"}
        assert 3 * statistics.median(proxy.upstream.uncached) < statistics.median(unpruned(NEW_EACH_TIME))

    def test_from_shared_documents_to_new_ones(self, start):
        proxy = self.run(start, [*FOUR_QUESTIONS, *NEW_EACH_TIME])
        assert proxy.decisions[-4:] == ["pruned"] * 4

    def test_one_document_where_the_cache_was_seen_to_work(self, start):
        proxy = self.run(start, ANOTHER_APPLICATION + FOUR_QUESTIONS[:4])
        assert proxy.decisions[3:] == ["skipped:reuse-expected"] + ["skipped:cached"] * 3
        assert proxy.upstream.uncached[3:] == unpruned(FOUR_QUESTIONS[:4])

    def test_one_new_document_is_enough_to_learn_that_they_do_not_come_again(self, start):
        proxy = self.run(start, ANOTHER_APPLICATION + NEW_EACH_TIME)
        assert proxy.decisions[3:] == ["skipped:reuse-expected"] + ["pruned"] * 7

    def test_it_is_learned_of_all_that_ask_so(self, start):
        """Where the system message has the time of day, each request is a new application."""
        proxy = start()
        told = [{"role": "system", "content": f"You are an assistant. It is {n} o'clock."} for n in range(8)]
        after_hits = [
            {**body, "messages": [system, *body["messages"]]}
            for system, body in zip(told, NEW_EACH_TIME, strict=True)
        ]
        for body in ANOTHER_APPLICATION + after_hits:
            proxy.send(body)
        assert proxy.decisions[3:].count("pruned") >= 6
        assert proxy.decisions[-5:] == ["pruned"] * 5

    def test_a_list_of_passages_is_not_taken_for_a_document_to_be_asked_about(self, start):
        passages = "\n\n".join(f"[{n}]\n{document(n, 40)}" for n in (1, 2, 3))
        bodies = [*ANOTHER_APPLICATION, chat(user(prompt(passages, asks(2, 5))))]
        assert self.run(start, bodies).decisions[-1] == "pruned"

    def test_nor_is_a_document_in_the_middle_of_a_conversation(self, start):
        said = {"role": "assistant", "content": "Nothing."}
        body = chat(user("Hello?"), said, user(prompt(document(3), asks(3, 5))))
        assert self.run(start, [*ANOTHER_APPLICATION, body]).decisions[-1] == "pruned"

    def test_the_arithmetic_of_the_cache_study(self):
        """Measured: whole 2559 ms, from the cache 190 ms, pruned 1150 ms.

        Whole by the second question is one hit less than unpruned: the mean is worse by the pruned request,
        and of a single document's four questions only the lower median is a hit.
        """
        direct, gated = [2559, 190, 190, 190], [1150, 2559, 190, 190]
        assert statistics.mean(gated) - statistics.mean(direct) == (1150 - 190) / 4
        assert statistics.median_low(gated) == statistics.median_low(direct) == 190
        assert statistics.median(gated) == 670
        # Known from the third document on at the latest, the median of all is a hit as well.
        assert statistics.median(2 * gated + direct) == 190


class TestAnUpstreamThatSaysWhetherItKeepsPrefixes:
    """A vLLM does, in its metrics."""

    def test_without_a_cache_nothing_is_kept_for_it(self, start):
        proxy = start(CachingUpstream(says=False, caches=False))
        for body in FOUR_QUESTIONS[:4]:
            proxy.send(body)
        assert proxy.decisions == ["pruned"] * 4

    def test_with_one_a_document_that_comes_again_is_left_to_it(self, start):
        proxy = start(CachingUpstream(says=True))
        for body in FOUR_QUESTIONS[:4]:
            proxy.send(body)
        assert proxy.decisions == ["skipped:reuse-expected"] + ["skipped:cached"] * 3
        assert proxy.upstream.uncached == unpruned(FOUR_QUESTIONS[:4])

    def test_and_one_that_does_not_teaches_otherwise(self, start):
        proxy = start(CachingUpstream(says=True))
        for body in NEW_EACH_TIME:
            proxy.send(body)
        assert proxy.decisions == ["skipped:reuse-expected"] + ["pruned"] * (len(NEW_EACH_TIME) - 1)
        uncached = proxy.upstream.uncached
        assert 3 * statistics.median(uncached) < statistics.median(unpruned(NEW_EACH_TIME))

    def test_a_chat_that_grows(self, start):
        bodies = growing_chat()
        proxy = start(CachingUpstream(says=True))
        for body in bodies:
            proxy.send(body)
        assert statistics.median(proxy.upstream.uncached) <= statistics.median(unpruned(bodies))
        assert sum(proxy.upstream.uncached) <= sum(unpruned(bodies))

    def test_what_is_seen_counts_more(self, start):
        proxy = start(CachingUpstream(says=True, caches=False, reports=False))
        for body in FOUR_QUESTIONS:
            proxy.send(body)
        assert proxy.decisions[0] == "skipped:reuse-expected"
        assert proxy.decisions[-4:] == ["pruned"] * 4

    @pytest.mark.parametrize("settings", [{"max_model_len": 16384}, {}])
    def test_a_length_that_is_set_does_not_keep_it_from_asking(self, start, settings):
        proxy = start(CachingUpstream(says=False), **settings)
        for body in FOUR_QUESTIONS[:2]:
            proxy.send(body)
        assert proxy.decisions == ["pruned"] * 2


def begins_with(later, earlier):
    return later["messages"][: len(earlier["messages"])] == earlier["messages"]


class TestTurns:
    def test_what_was_sent_stays_byte_for_byte(self, start):
        proxy = start()
        for body in growing_chat():
            proxy.send(body)
        sent = proxy.upstream.bodies
        assert all(begins_with(later, earlier) for earlier, later in itertools.pairwise(sent))

    def test_without_the_gate_it_does_not(self, start):
        proxy = start(gate="off")
        for body in growing_chat():
            proxy.send(body)
        sent = proxy.upstream.bodies
        assert not all(begins_with(later, earlier) for earlier, later in itertools.pairwise(sent))

    def test_system_tools_and_answers_are_never_touched(self, start):
        proxy = start()
        tools = [{"type": "function", "function": {"name": "get", "description": document(9)}}]
        system = {"role": "system", "content": document(8)}
        said = {"role": "assistant", "content": document(7)}
        body = chat(system, user(prompt(document(1), asks(1, 2))), said, user(asks(1, 3)), tools=tools)
        proxy.send(body)
        assert proxy.last["tools"] == tools
        assert [proxy.last["messages"][n] for n in (0, 2, 3)] == [body["messages"][n] for n in (0, 2, 3)]

    def test_tool_output_of_earlier_steps(self, start):
        proxy = start()
        question = user(asks(1, 2))
        call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": {"name": "f"}}]}
        messages = [question]
        for n in (1, 2, 3):
            messages += [call, {"role": "tool", "tool_call_id": "c", "content": document(n, 60)}]
            proxy.send(chat(*messages))
            assert len(proxy.last["messages"][-1]["content"]) < len(messages[-1]["content"]) / 5
        assert proxy.last["messages"][2] == proxy.upstream.bodies[0]["messages"][2]

    def test_what_went_unpruned_stays_so(self, start):
        proxy = start()
        first = user(f"Context:\n{document(1)}\n\nQuestion: Summarize the text.")
        proxy.send(chat(first))
        proxy.send(chat(first, {"role": "assistant", "content": "Hm."}, user(asks(1, 3))))
        assert proxy.last["messages"][0] == first
        assert proxy.decisions == ["skipped:whole-text", "skipped:cached"]

    @pytest.mark.parametrize("how", [{"enabled": False}, {"method": "broken"}])
    def test_whatever_the_reason(self, start, how):
        proxy = start()
        first = user(prompt(document(1), asks(1, 2)))
        proxy.send(chat(first, tokenprune=how))
        proxy.send(chat(first, {"role": "assistant", "content": "Hm."}, user(asks(1, 3))))
        assert proxy.last["messages"][0] == first

    def test_a_task_about_all_of_the_text_gets_it(self, start):
        proxy = start()
        first, answer = user(prompt(document(1), asks(1, 2))), {"role": "assistant", "content": "Hm."}
        proxy.send(chat(first))
        body = chat(first, answer, user("Please summarize the text."))
        proxy.send(body)
        assert proxy.last == body
        longer = chat(*body["messages"], answer, user(asks(1, 4)))
        proxy.send(longer)
        assert proxy.last["messages"][0] == first, "as it was sent last"

    def test_branches_have_their_own_past(self, start):
        proxy = start()
        one, two = (user(prompt(document(1), asks(1, k))) for k in (2, 60))
        answer = {"role": "assistant", "content": "Hm."}
        proxy.send(chat(one))
        proxy.send(chat(two))
        whole = proxy.last["messages"][0]
        proxy.send(chat(one, answer, user("Why?")))
        assert proxy.last["messages"][0] == proxy.upstream.bodies[0]["messages"][0]
        proxy.send(chat(two, answer, user("Why?")))
        assert proxy.last["messages"][0] == whole == two


class TestRepeats:
    def test_are_sent_as_they_were(self, start):
        proxy = start()
        first, second = (proxy.send(about(1, 5)) for _ in range(2))
        assert proxy.upstream.bodies[0] == proxy.upstream.bodies[1]
        assert proxy.decisions == ["pruned", "pruned"]
        for name in ("tokens-before", "tokens-after", "receipt"):
            assert first.headers[f"x-tokenprune-{name}"] == second.headers[f"x-tokenprune-{name}"]

    def test_twice_pruned_is_once_pruned(self, start):
        """Idempotence: what comes out goes through unchanged."""
        proxy = start()
        proxy.send(about(1, 5))
        once = proxy.last
        proxy.send(once)
        assert proxy.last == once

    def test_a_second_proxy_sends_the_same(self, start):
        bodies = [*growing_chat(), *FOUR_QUESTIONS[:4]]
        sent = []
        for _ in range(2):
            proxy = start()
            for body in bodies:
                proxy.send(body)
            sent.append(proxy.upstream.bodies)
        assert sent[0] == sent[1]
