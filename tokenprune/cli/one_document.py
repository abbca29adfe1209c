"""What `prune` and `show` share: the options of pruning one document, and doing it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tokenprune.pipeline import Pipeline
    from tokenprune.receipt import PruneResult


class OutputForm(StrEnum):
    """What HTML becomes; see `tokenprune.render.OUTPUTS`."""

    same = "same"
    html = "html"
    text = "text"
    markdown = "markdown"


class DocumentKind(StrEnum):
    """What the input is; see `tokenprune.document.KINDS`."""

    html = "html"
    text = "text"
    triples = "triples"
    examples = "examples"
    chat = "chat"


File = Annotated[str, typer.Argument(metavar="FILE|-", help="What to prune; - reads standard input.")]
Query = Annotated[str, typer.Option("--query", "-q", help="The question the result must answer.")]
Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        "-m",
        help="A method (`tokenprune methods`) or pipeline; default: provence for texts, else hybrid.",
    ),
]
MaxTokens = Annotated[int | None, typer.Option(help="Keep at most this many tokens.")]
KeepRatio = Annotated[float | None, typer.Option(help="Keep at most this share of the tokens.")]
Threshold = Annotated[float | None, typer.Option(help="Keep what scores at least this much.")]
Kind = Annotated[DocumentKind | None, typer.Option(help="What the input is; default: look.")]
Output = Annotated[
    OutputForm | None,
    typer.Option(
        help="What HTML becomes: same (stays HTML, briefly written), html (with all end tags), text or"
        " markdown; default: as configured."
    ),
]
ConfigFile = Annotated[
    str | None, typer.Option("--config", help="YAML file with pipelines; --method names one.")
]
Tokenizer = Annotated[
    str | None, typer.Option(help="Whose tokens are counted: a named model, folder or hub name.")
]


@dataclass(frozen=True)
class Pruning:
    """The options of a command; see their help."""

    query: str
    method: str | None
    max_tokens: int | None
    keep_ratio: float | None
    threshold: float | None
    kind: DocumentKind | None
    output: OutputForm | None
    config: str | None
    tokenizer: str | None

    def __call__(self, file: str) -> PruneResult:
        """Prune a file.

        Raises:
            typer.BadParameter: the file cannot be read, or options exclude each other.
            TokenPruneError: what pruning raises; ConfigError where a method is not for such input.
        """
        budgets = (("--max-tokens", self.max_tokens), ("--keep-ratio", self.keep_ratio))
        given = [option for option, value in budgets if value is not None]
        if len(given) > 1 or (given and self.threshold is not None):
            raise typer.BadParameter("give only one of --max-tokens, --keep-ratio and --threshold")
        from tokenprune.budget import Budget
        from tokenprune.config import with_output
        from tokenprune.detect import kind_of_file
        from tokenprune.document import Document

        kind = kind_of_file(file) if self.kind is None else self.kind.value
        document = Document.from_bytes(read(file), kind=kind)
        pipeline = self._pipeline(str(document.kind))
        if self.output is not None:
            pipeline = with_output(pipeline, self.output.value)
        budget = Budget(self.max_tokens, self.keep_ratio) if given else None
        return pipeline.prune(self.query, [document], budget)

    def _pipeline(self, kind: str) -> Pipeline:
        from tokenprune.config import load_config
        from tokenprune.errors import ConfigError
        from tokenprune.pipeline import Pipeline
        from tokenprune.registry import pruner

        settings = load_config(self.config, self.tokenizer)
        method = self.method
        if self.threshold is None:
            found = settings.build(method or "default")
        else:
            if method is None:
                matching = [p for p in settings.build("default").pruners if kind in p.kinds]
                method = matching[-1].name if matching else "none"
            if method in settings.pipelines:
                raise ConfigError(f"--threshold goes with a method, and {method!r} is a configured pipeline")
            found = Pipeline([pruner(method, threshold=self.threshold)], tokenizer=settings.tokenizer)
        if method is not None and not any(kind in p.kinds for p in found.pruners):
            # In a pipeline such a document passes as it is. Who names a method wants to see it at work.
            kinds = sorted({k for p in found.pruners for k in p.kinds})
            raise ConfigError(
                f"{method!r} is for {', '.join(kinds)}, and the input is {kind}: choose another method, or "
                "give --kind if it is something else"
            )
        return found


def read(file: str) -> bytes:
    """Read a file, or standard input for ``-``.

    Raises:
        typer.BadParameter: it cannot be read.
    """
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}") from None
