"""``tokenprune methods``: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

import typer

# Options that mean the same wherever a method's own words do not say more.
_SHARED = {
    "kinds": "kinds of documents it prunes in a pipeline; the others pass",
    "model": "a named model, a folder or a hub name",
    "threshold": "units that score at least so much stay",
    "keep_ratio": "the best units stay, up to this share of the tokens",
    "top_k": "so many of the best units stay",
    "output": "what HTML becomes: same, text or markdown",
    "dtype": "number format of the model; the fastest that is good",
}


def methods(
    name: Annotated[
        str | None,
        typer.Argument(help="Show all that is known of this one, its options included.", show_default=False),
    ] = None,
) -> None:
    """List every method and recipe, for text, pictures and weights, with its paper; or one of them in full.

    \b
    Examples:
      tokenprune methods
      tokenprune methods provence
    """
    from tokenprune.registry import about, list_pruners
    from tokenprune.vision import list_vision_methods
    from tokenprune.weights.recipes import describe, load_recipes

    found = list_pruners()
    recipes = load_recipes()
    seeing = list_vision_methods()
    if name is None:
        width = max(len(known) for known in (*(i.name for i in found), *(i.name for i in seeing), *recipes))
        for info in found:
            needs = f"; needs {', '.join(info.models)}" if info.models else ""
            typer.echo(f"{info.name:<{width}}  {info.summary} [{info.paper}{needs}]")
        for one in seeing:  # some names are those of other methods: `tokenprune vision methods NAME`
            typer.echo(f"{one.name:<{width}}  vision: {one.line}")
        for known, recipe in recipes.items():
            typer.echo(f"{known:<{width}}  weights: {recipe.summary} [{recipe.paper}]")
        return
    if name in recipes:
        typer.echo(describe(name, recipes[name]))
        return
    pictures = [one for one in seeing if one.name == name]
    if pictures and name not in [info.name for info in found]:
        typer.echo(pictures[0].described)
        return
    info, text = about(name)
    typer.echo(f"{info.name}: {info.summary}")
    typer.echo(f"from: {info.paper}")
    typer.echo(f"for: {', '.join(info.kinds)}; models: {', '.join(info.models) or 'none'}")
    if text:
        typer.echo(f"\n{text}")
    typer.echo("\noptions, as keyword arguments or in a configuration file:")
    for option in ("kinds=None", *info.options):
        key = option.partition("=")[0]
        told = "" if f"``{key}``" in text else _SHARED.get(key, "")
        typer.echo(f"  {option:<20}  {told}".rstrip())
