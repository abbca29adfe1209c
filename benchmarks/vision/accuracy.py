"""Pictures: answers right against visual tokens kept, every method; pictures of what is kept."""

from __future__ import annotations

from typing import Any

from benchmarks.common.context import Context
from benchmarks.vision.asking import METHODS, encode, images, load, measure, pictures, summary
from tokenprune.vision.show import Panel, as_seen, count_line, draw, states


def run(context: Context) -> dict[str, Any]:
    options = context.options
    rows = summary(measure(context, "accuracy", list(pictures(options.pictures)), options.keeps))
    return {"rows": rows, "examples": examples(context, options.examples)}


def examples(context: Context, count: int) -> list[str]:
    """Draw what each method before the language model keeps of the first pictures; return the files."""
    engine = load()
    drawn = []
    folder = context.options.out / "examples"
    folder.mkdir(parents=True, exist_ok=True)
    for scene, asked in pictures(count):
        tokens = encode(engine, scene)
        panels = []
        for name in context.options.methods:
            if METHODS[name].before is None or METHODS[name].inside:
                continue
            found = states(tokens, METHODS[name].reduce(tokens, context.options.example_keep))
            panels.append(Panel(name, found, count_line(found).split(",")[0]))
        path = folder / f"picture-{scene.number}.png"
        draw(as_seen(engine.encoder, images(scene)), panels, path, asked[0].text)
        drawn.append(path.name)
    return drawn
