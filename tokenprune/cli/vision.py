"""``tokenprune vision``: what visual token pruning keeps of a picture, and the methods there are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from PIL.Image import Image

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Prune the tokens of pictures: see what methods keep, list them, export a vision encoder.\n\n"
    "Example: tokenprune vision show photo.jpg --method fopru --method visionzip --keep 0.25",
)
_WIDEST_MAP = 80  # characters; wider maps are left to the picture


@app.command("methods")
def methods(
    name: Annotated[
        str | None,
        typer.Argument(help="Show all that is known of this one, its options included.", show_default=False),
    ] = None,
) -> None:
    """List the methods of visual token pruning, one line each, with their papers; or one of them in full.

    \b
    Examples:
      tokenprune vision methods
      tokenprune vision methods holitom
    """
    from tokenprune.vision.methods.base import list_vision_methods, vision_method_info

    if name is None:
        found = list_vision_methods()
        width = max(len(info.name) for info in found)
        for info in found:
            typer.echo(f"{info.name:<{width}}  {info.line}")
        return
    typer.echo(vision_method_info(name).described)


@app.command("show")
def show(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE...", help="A picture; several, or an animation, with --video."),
    ],
    method: Annotated[
        list[str],
        typer.Option(
            help="A name of `tokenprune vision methods`; with options: fopru:strategy=row. Repeat it."
        ),
    ],
    keep: Annotated[
        str, typer.Option(help="Rows that stay (49), a share of them (0.25, 25%), or auto: the method's own.")
    ] = "0.25",
    question: Annotated[
        str, typer.Option("--question", "-q", help="What the model is asked under each method.")
    ] = "",
    model: Annotated[
        str,
        typer.Option(
            help="A checkpoint of LLaVA or LLaVA-OneVision, or an export of its vision part: name, folder or "
            "hub id."
        ),
    ] = "llava-mini",
    video: Annotated[bool, typer.Option("--video", help="The pictures are frames of one video.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="The picture to write; default: IMAGE.kept.png here.", show_default=False),
    ] = None,
) -> None:
    """Draw which patches of a picture methods keep, merge and drop, side by side; a summary is printed.

    LLaVA-OneVision sees a picture twice, all of it and its tiles put together: each is drawn in a row.

    With a question, the model answers it under each method, and methods inside the language model show what
    its last layer still sees.

    \b
    Examples:
      tokenprune vision show photo.jpg --method fopru --method divprune --keep 0.25 --out kept.png
      tokenprune vision show photo.jpg -q "What colour is the 7?" --method fopru --method fastv
      tokenprune vision show a.png b.png c.png --video --method holitom --method evs --keep 15%
    """
    from tokenprune.vision import show as shown
    from tokenprune.vision.look import Chosen, Looking
    from tokenprune.vision.tokens import parse_keep

    budget = parse_keep(keep)
    chosen = [Chosen.of(text, budget) for text in method]
    target = shown.target(out or Path(f"{images[0].stem}.kept.png"))
    pictures = _pictures(images, video=video)
    looking = Looking.at(model, pictures, video=video, question=question)
    panels = []
    for one in chosen:
        reduced, answer = looking.look(one)
        states = shown.states(looking.tokens, reduced)
        summary = shown.count_line(states)
        below = summary.replace(", ", "\n") + (f"\nanswer: {answer}" if answer else "")
        panels.append(shown.Panel(one.text, states, below))
        typer.echo(f"{one.text}: {summary}" + (f"; answer: {answer}" if answer else ""))
        if sum(frame.shape[1] + 3 for frame in states) <= _WIDEST_MAP:
            typer.echo(shown.text_map(states))
        _note(one.note(len(looking.tokens), len(reduced)))
    seen = shown.as_seen(looking.encoder, pictures, video=video)
    drawn = shown.draw(seen, panels, target, question)
    _note(drawn.note)
    marks = ", ".join(f"{mark} {label}" for mark, label in zip(shown.MARKS, shown.LABELS, strict=True))
    typer.echo(f"{marks}\nwritten: {drawn.path}")


def _note(text: str) -> None:
    if text:
        typer.echo(f"note: {text}", err=True)


@app.command("export")
def export(
    model: Annotated[
        str, typer.Argument(help="A checkpoint of LLaVA or LLaVA-OneVision: name, folder or hub id.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    full: Annotated[
        bool,
        typer.Option("--full", help="All of the checkpoint, its tensors named as vLLM reads them."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
) -> None:
    """Write the vision part of a checkpoint: all that the proxy needs of it to prune pictures.

    \b
    Examples:
      tokenprune vision export llava-hf/llava-1.5-7b-hf llava-vision
      tokenprune vision export llava-mini llava-mini-vllm --full
    """
    from tokenprune.vision.export import export_full, export_vision

    place = (export_full if full else export_vision)(model, out, overwrite=overwrite)
    size = sum(file.stat().st_size for file in place.iterdir())
    typer.echo(f"written: {place} ({size / 1e6:.1f} MB)")


def _pictures(paths: list[Path], *, video: bool) -> list[Image]:
    from tokenprune.vision.images import read_file, read_video_file

    if video:
        return [frame for path in paths for frame in read_video_file(path)]
    if len(paths) > 1:
        raise typer.BadParameter("give one picture, or --video: they are frames of one video")
    read = read_file(paths[0])
    for note in read.notes:
        typer.echo(f"{paths[0]}: {note}", err=True)
    return [read.image]
