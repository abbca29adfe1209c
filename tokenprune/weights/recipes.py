"""Recipes as data: names from YAML become the parts of `tokenprune.weights`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self, get_type_hints

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from tokenprune import unique_yaml
from tokenprune.errors import RecipeError, UnknownNameError
from tokenprune.validation import faults, options_of

_PACKAGE = "tokenprune.weights"
# structure -> name -> where the part is; parts are imported when a recipe is built.
CRITERIA: Mapping[str, Mapping[str, str]] = {
    "elements": {
        "magnitude": "criteria.magnitude:Magnitude",
        "wanda": "criteria.wanda:Wanda",
        "sparsegpt": "criteria.sparsegpt:SparseGPT",
        "gblm": "criteria.gblm:Gblm",
        "learned-masks": "criteria.learned_masks:LearnedMasks",
    },
    "units": {
        "magnitude": "criteria.unit_magnitude:UnitMagnitude",
        "wanda-sp": "criteria.wanda_sp:WandaUnits",
        "flap": "criteria.flap:Fluctuation",
        "taylor": "criteria.taylor:Taylor",
        "cfsp": "criteria.cfsp:Cfsp",
        "amp": "criteria.amp:Projection",
        "lora-learn": "learned_units:LoraImportance",
    },
    "depth": {"block-influence": "depth:BlockInfluence", "output-change": "depth:OutputChange"},
    "experts": {"router-similarity": "experts:RouterSimilarity"},
}
ALLOCATIONS: Mapping[str, str] = {
    "uniform": "allocation.uniform:Uniform",
    "owl": "allocation.owl:Owl",
    "angular": "allocation.influence:AngularInfluence",
    "similarity": "allocation.influence:Similarity",
    "ecoflap": "allocation.ecoflap:ZerothOrder",
}
COMPENSATIONS: Mapping[str, Mapping[str, str]] = {
    "elements": {"obs": "compensation.obs:Obs", "dsnot": "compensation.dsnot:Dsnot"},
    "units": {"bias": "compensation.bias:mean_bias", "least-squares": "compensation.least_squares:refit"},
    "depth": {},
    "experts": {},
}
RECOVERIES: Mapping[str, str] = {"train": "recovery.train:Recovery"}
POOL = "pool"


class Part(BaseModel):
    """A part's name and its options; a plain string in YAML is a name without options."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """What else was given."""
        return dict(self.model_extra or {})


class Recipe(BaseModel):
    """One way to prune.

    Attributes:
        summary: One line.
        paper: Where it comes from.
        deviations: Where it differs from the paper.
        structure: ``elements`` (weights), ``units`` (KV groups, FFN channels), ``depth`` or ``experts``.
        criterion: What is worth what.
        allocation: How much from where; for units also ``pool`` with ``norm``: none, mean or zscore.
        compensation: How what stays makes up, or None.
        recovery: Training behind it on the calibration text, ``train`` with options, or None.
        pattern: N:M for elements.
        propagate: Whether layers are judged by ``pruned`` or ``dense`` outputs of those before (elements).
        sparsity: Share that goes when none is asked for.
        rounds: Pruning in so many equal steps, scored anew each time, with the recovery between them; what is
            left is recovered at the end as well (units without compensation).
        spared: Layers at the start and at the end that lose nothing (units).
        then: A recipe for elements that prunes what stays, with a sparsity of its own or given here (STUN).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    summary: str
    paper: str
    deviations: str = ""
    structure: Literal["elements", "units", "depth", "experts"]
    criterion: Part
    allocation: Part = Part(name="uniform")
    compensation: Part | None = None
    recovery: Part | None = None
    pattern: str | None = None
    propagate: Literal["pruned", "dense"] = "pruned"
    sparsity: float = Field(default=0.5, ge=0, lt=1)
    rounds: int = Field(default=1, ge=1)
    spared: tuple[int, int] = (0, 0)
    then: Part | None = None

    @field_validator("criterion", "allocation", "compensation", "recovery", "then", mode="before")
    @classmethod
    def _strings_are_names(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("pattern", mode="before")
    @classmethod
    def _patterns_are_no_numbers(cls, value: Any) -> Any:
        """YAML 1.1 reads an unquoted 2:4 as a number to the base of 60."""
        return f"{value // 60}:{value % 60}" if type(value) is int else value

    @model_validator(mode="after")
    def _parts_have_a_structure(self) -> Self:
        """Refuse what this structure would ignore."""
        of: Mapping[str, tuple[str, ...]] = {
            "pattern": ("elements",),
            "propagate": ("elements",),
            "rounds": ("units",),
            "spared": ("units",),
            "allocation": ("elements", "units"),
            "compensation": ("elements", "units"),
        }
        for name, structures in of.items():
            unset = getattr(self, name) == type(self).model_fields[name].default
            if self.structure not in structures and not unset:
                raise ValueError(
                    f"{name} is for recipes of {' and '.join(structures)}, this one is of {self.structure}: "
                    "leave it out"
                )
        return self


def load_recipes(file: Path | None = None) -> dict[str, Recipe]:
    """Return the package's recipes, and those of ``file``, which win.

    Raises:
        RecipeError: The file cannot be read or holds something that is no recipe.
    """
    found = dict(_own())
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"cannot read recipes from {str(file)!r}: {error}") from error
        found |= _parse(text, str(file))
    return found


def get_recipe(name: str, file: Path | None = None) -> Recipe:
    """Return a recipe by name; raises UnknownNameError, RecipeError."""
    found = load_recipes(file)
    if name not in found:
        raise UnknownNameError("recipe", name, list(found))
    return found[name]


def describe(name: str, recipe: Recipe) -> str:
    """Return all that is known of a recipe as text."""
    lines = [
        f"{name}: {recipe.summary}",
        f"from: {recipe.paper}",
        f"deviations: {recipe.deviations or 'none'}",
        "",
    ]
    body = recipe.model_dump(mode="json", exclude={"summary", "paper", "deviations"}, exclude_defaults=True)
    lines.append(yaml.safe_dump({name: body}, sort_keys=False, default_flow_style=False).rstrip())
    lines.append(f"\nuse: tokenprune weights prune MODEL OUT --recipe {name} --calibration FILE")
    return "\n".join(lines)


def part(part: Part, known: Mapping[str, str], what: str) -> Any:
    """Build a part from its name and options.

    Args:
        part: Name and options.
        known: Name -> ``module:Class`` below `tokenprune.weights`.
        what: Names the kind of part in an error.

    Raises:
        UnknownNameError: No such part.
        RecipeError: It has no such option, or the option no such value.
    """
    if part.name not in known:
        raise UnknownNameError(what, part.name, list(known))
    module, name = known[part.name].split(":")
    made: Callable[..., Any] = getattr(import_module(f"{_PACKAGE}.{module}"), name)
    options, hints = part.options, get_type_hints(made, include_extras=True)
    known_options = inspect.signature(made).parameters
    for key in options:
        if key not in known_options:
            has = ", ".join(options_of(made)) or "none"
            raise RecipeError(f"{what} {part.name!r} has no option {key!r}; its options: {has}")
    try:
        for key in hints.keys() & options.keys():
            options[key] = TypeAdapter(hints[key]).validate_python(options[key])
        return made(**options)
    except ValidationError as error:
        raise RecipeError(f"{what} {part.name!r}: {faults(error, key)}") from error
    except TypeError as error:
        raise RecipeError(f"{what} {part.name!r}: {error}") from error


def known_parts() -> dict[str, dict[str, tuple[str, tuple[str, ...]]]]:
    """Return all parts by kind: name -> what it is in a line, and its options as people read them."""
    pool = "Scores of all layers and kinds compete (units only); norm: none, mean or zscore"
    kinds = {f"criterion of {structure}": known for structure, known in CRITERIA.items()}
    kinds["allocation"] = ALLOCATIONS
    kinds |= {f"compensation of {structure}": known for structure, known in COMPENSATIONS.items() if known}
    kinds["recovery"] = RECOVERIES
    found = {
        heading: {name: _described(where) for name, where in known.items()}
        for heading, known in kinds.items()
    }
    found["allocation"][POOL] = (pool, ("norm='zscore'",))
    return found


def _described(where: str) -> tuple[str, tuple[str, ...]]:
    module, name = where.split(":")
    home = import_module(f"{_PACKAGE}.{module}")
    made: Any = getattr(home, name)
    # a file of one method says at its head which it is
    head = inspect.getdoc(made if module in ("depth", "allocation.influence") else home) or ""
    summary = head.split("\n\n")[0].replace("\n", " ").rstrip(".")
    return summary, options_of(made) if hasattr(made, "__dataclass_fields__") else ()


@cache
def _own() -> dict[str, Recipe]:
    return _parse(files(_PACKAGE).joinpath("recipes.yaml").read_text(encoding="utf-8"), "recipes.yaml")


def _parse(text: str, where: str) -> dict[str, Recipe]:
    try:
        raw = unique_yaml.load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"{where} must map names to recipes")
    found = {}
    for name, body in raw.items():
        try:
            found[str(name)] = Recipe.model_validate(body)
        except ValidationError as error:
            raise RecipeError(f"{where}: {faults(error, str(name))}") from error
    return found
