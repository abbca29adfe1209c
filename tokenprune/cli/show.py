"""``tokenprune show``: a document with what is kept and what is dropped, in the terminal or as a page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenprune.cli import one_document as one

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from tokenprune.cli.stretches import Shown, Stretch

KEPT, DROPPED, SCORE, LEGEND = "bold", "dim strike", "cyan", "italic"
OPEN, CLOSE = "⟦", "⟧"  # around kept text where there are no styles
_OWN_BRACKETS = str.maketrans({OPEN: "[[", CLOSE: "]]"})  # those of a document say nothing of what is kept
SHORTEN = 300
_PAGE_WIDTH = 110
# Control characters of a document must not steer the terminal: they are shown by their pictures.
_PICTURES = {n: 0x2400 + n for n in range(32) if chr(n) not in "\n\t"} | {0x7F: 0x2421}
_PICTURES |= dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)
# Lone surrogates cannot be written.
_PICTURES |= dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)


def show(
    file: Annotated[
        str | None,
        typer.Argument(metavar="[FILE|-]", help="The original; - reads standard input.", show_default=False),
    ] = None,
    query: one.Query = "",
    method: one.Method = None,
    max_tokens: one.MaxTokens = None,
    keep_ratio: one.KeepRatio = None,
    threshold: one.Threshold = None,
    kind: one.Kind = None,
    config: one.ConfigFile = None,
    tokenizer: one.Tokenizer = None,
    receipt: Annotated[
        Path | None,
        typer.Option(
            help="Prune nothing; show what `prune --format json` wrote of FILE, or, without FILE, what the "
            "proxy answers under /v1/receipts/ID.",
            show_default=False,
        ),
    ] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Write its score behind each unit.")] = False,
    dropped: Annotated[
        int, typer.Option(help="Characters shown of a dropped stretch, at most; -1: all of them.", min=-1)
    ] = SHORTEN,
    width: Annotated[int | None, typer.Option(help="Columns; default: the terminal's.", min=20)] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write a page instead.", show_default=False)
    ] = None,
) -> None:
    """Show a document with what a method keeps (bold) and drops (dim, struck through), and a legend.

    Where output is no terminal, or NO_COLOR is set, kept text stands between ⟦ and ⟧.

    \b
    Examples:
      tokenprune show --query "When was the lamp lit?" --method gemfilter-q --max-tokens 40 notes.txt
      tokenprune show -q "How do I open a file?" --scores --html kept.html page.html
      tokenprune prune -q "Who?" --format json notes.txt > r.json; tokenprune show --receipt r.json notes.txt
    """
    from tokenprune.cli import stretches

    if receipt is None:
        if file is None:
            raise typer.BadParameter("give a FILE to prune, or --receipt")
        options = (query, method, max_tokens, keep_ratio, threshold, kind, None, config, tokenizer)
        given = stretches.from_result(one.Pruning(*options)(file))
    else:
        pruning = (query or None, method, max_tokens, keep_ratio, threshold, config, tokenizer)
        if any(option is not None for option in pruning):
            raise typer.BadParameter("--receipt says what was pruned; it goes with no option of pruning")
        given = stretches.from_file(receipt)
        if file is not None:
            given = stretches.with_original(given, one.read(file), None if kind is None else kind.value)
    documents = stretches.shown(given, by_unit=scores)
    if html is not None:
        _write_page(documents, html, dropped, width or _PAGE_WIDTH)
        return
    from rich.console import Console

    console = Console(width=width, highlight=False, emoji=False, soft_wrap=False)
    if console.is_terminal and not console.no_color:
        _print(console, documents, dropped)
    else:
        _print_plain(documents, dropped, width)


def shortened(stretch: Stretch, most: int) -> str:
    """The text to show: of what is dropped, the beginning, a mark, and the end."""
    text = stretch.text.translate(_PICTURES)
    if stretch.kept or most < 0 or len(text) <= most:
        return text
    head, tail = text[: most - most // 2], text[len(text) - most // 2 :] if most > 1 else ""
    return f"{head}[… {len(text) - most:,} characters …]{tail}"


def _score(stretch: Stretch) -> str:
    return "" if stretch.score is None else f"({stretch.score:.3g})"


def _styled(document: Shown, most: int) -> Text:
    from rich.text import Text

    text = Text()
    for stretch in document.stretches:
        text.append(shortened(stretch, most), style=KEPT if stretch.kept else DROPPED)
        text.append(_score(stretch), style=SCORE)
    return text


def _print(console: Console, documents: Sequence[Shown], most: int) -> None:
    from rich.text import Text

    for document in documents:
        head = Text(f"{_title(document, documents)}{document.legend}  ", style=LEGEND)
        head.append("kept", style=KEPT)
        head.append(" ")
        head.append("dropped", style=DROPPED)
        console.print(head)
        console.print(_styled(document, most))


def _print_plain(documents: Sequence[Shown], most: int, width: int | None) -> None:
    from rich.console import Console
    from rich.text import Text

    parts = []
    for document in documents:
        parts.append(f"{_title(document, documents)}{document.legend}; kept text is in {OPEN} {CLOSE}\n")
        for stretch in document.stretches:
            text = shortened(stretch, most).translate(_OWN_BRACKETS)
            parts.append((f"{OPEN}{text}{CLOSE}" if stretch.kept else text) + _score(stretch))
        parts.append("\n")
    text = "".join(parts)
    if width is not None:
        console = Console(width=width, no_color=True, force_terminal=False, highlight=False)
        with console.capture() as capture:
            console.print(Text(text), end="")
        text = capture.get()
    # The encoding of a pipe may know less than the text.
    sys.stdout.buffer.write(text.encode("utf-8"))
    sys.stdout.buffer.flush()


def _title(document: Shown, documents: Sequence[Shown]) -> str:
    return f"{document.name}: " if len(documents) > 1 else ""


def _write_page(documents: Sequence[Shown], path: Path, most: int, width: int) -> None:
    import io

    from rich.console import Console
    from rich.terminal_theme import DEFAULT_TERMINAL_THEME

    console = Console(
        record=True, file=io.StringIO(), width=width, force_terminal=True, no_color=False, highlight=False
    )
    _print(console, documents, most)
    page = console.export_html(theme=DEFAULT_TERMINAL_THEME, inline_styles=True)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"cannot write {path}: {error.strerror}") from None
