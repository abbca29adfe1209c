"""Prune retrieved passages and a web page in a RAG application, and see what was dropped."""

from pathlib import Path

import tokenprune as tp

question = "Which function generates a random UUID?"
passages = [
    tp.Document((Path(__file__).parent / "uuid.html").read_text(encoding="utf-8"), id="uuid", title="uuid"),
    tp.Document(
        "The random module implements pseudo-random number generators for various distributions. "
        "Functions that choose an element of a sequence are provided as well. "
        "The generators of this module should not be used for security purposes.",
        id="random",
        title="random",
    ),
]

pipeline = tp.Pipeline.from_config()  # the default: provence for texts, hybrid for pages
result = pipeline.prune(question, passages, budget=tp.Budget(max_tokens=300))

print(f"{result.tokens_before} -> {result.tokens_after} tokens in {result.seconds * 1000:.0f} ms")
for document in result.documents:
    print(f"--- {document.id}\n{document.text}")
dropped = [unit for unit in result.receipts[0].units if not unit.kept]
print(f"--- {len(dropped)} ranges of the first page were dropped; the longest:")
longest = max(dropped, key=lambda unit: unit.tokens)
print(f"characters {longest.start}-{longest.end}, {longest.tokens} tokens, score {longest.score:.2f}")
