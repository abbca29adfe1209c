"""Calibrating a loaded model: make prompts, read each once, choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenprune.calibrate.observe import observe
from tokenprune.calibrate.prompts import LEAST_TOKENS, check_items, items
from tokenprune.calibrate.search import LEAST_PROMPTS, TOLERANCE, check_tolerance, counts_for, search
from tokenprune.engine.calibration import Calibration
from tokenprune.engine.fingerprint import fingerprint
from tokenprune.errors import ConfigError
from tokenprune.models.progress import SILENT, Reporter

if TYPE_CHECKING:
    from tokenprune.engine.decoder import Decoder
    from tokenprune.models.causal_lm import LoadedLM

_FRAME = 200  # tokens of a prompt around its context: template, question


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured.

    Attributes:
        prompts: half of them needles, half questions over passages.
        tokens: of a context, about.
        seed: of the prompts.
        tolerance: share of answers that an earlier layer may miss beyond the best one.
        layer: to take for the question, whatever others find; None: by ``tolerance``.
    """

    prompts: int = 48
    tokens: int = 2048
    seed: int = 0
    tolerance: float = TOLERANCE
    layer: int | None = None

    def __post_init__(self) -> None:
        """Check what needs no model.

        Raises:
            ConfigError: Too few or too many prompts, too few tokens, or a tolerance outside [0, 1].
        """
        check_items(self.prompts, self.tokens, LEAST_PROMPTS)
        check_tolerance(self.tolerance)


QUICK = Settings(prompts=16, tokens=768)


def calibrate(lm: LoadedLM, decoder: Decoder, settings: Settings, report: Reporter = SILENT) -> Calibration:
    """Find out which layer and heads of a model find answers; each prompt is read once.

    Raises:
        ConfigError: Prompts do not fit the model, it has no such layer, or fewer than 3.
    """
    if decoder.depth < 3:
        raise ConfigError(f"a model of {decoder.depth} layers has none to choose from; 3 are needed")
    if settings.layer is not None and not 0 < settings.layer < decoder.depth - 1:
        raise ConfigError(
            f"the layer must lie in 1..{decoder.depth - 2} for this model, not {settings.layer}"
        )
    most = lm.max_positions - _FRAME
    if settings.tokens > most:
        can = f"prompts can have {most}, not {settings.tokens}"
        if most < LEAST_TOKENS:
            can = f"prompts of {LEAST_TOKENS}, the shortest there are, need {LEAST_TOKENS + _FRAME}"
        raise ConfigError(f"{lm.name} reads {lm.max_positions} tokens: {can}")

    def measure(text: str) -> int:
        return len(lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    made = items(settings.prompts, settings.tokens, settings.seed, measure)
    report.stage("reading prompts", len(made))
    seen = []
    for item in made:
        seen.append(observe(decoder, lm.tokenizer, item, lm.max_positions))
        report.advance(1)
    report.stage("choosing", None)
    found = search(seen, counts_for(settings.tokens), settings.tolerance, settings.layer)
    depth = decoder.depth
    return Calibration(
        model=lm.name,
        fingerprint=fingerprint(decoder),
        depth=depth,
        question=found.question,
        published=found.published,
        prompts=f"{len(made)} prompts of {settings.tokens} tokens, seed {settings.seed}; half of them chose",
        choices=tuple(layer.choice for layer in found.layers),
        layers=tuple(
            {
                "layer": layer.choice.layer,
                "cost": round(layer.choice.layer / depth, 3),
                "kept": round(layer.kept, 4),
                "alone": round(layer.kept_alone, 4),
                "all_heads": round(layer.all_heads, 4),
                "last_token": round(layer.last, 4),
            }
            for layer in found.layers
        ),
    )
