"""``tokenprune weights parts``: what a recipe of one's own is made of."""

from __future__ import annotations

import typer


def parts() -> None:
    """List the parts of recipes with their options, for a recipe file of your own (prune --recipes FILE).

    Example: tokenprune weights parts
    """
    from tokenprune.weights.recipes import known_parts

    for heading, found in known_parts().items():
        typer.echo(f"{heading}:")
        width = max(len(name) for name in found)
        for name, (summary, options) in found.items():
            typer.echo(f"  {name:<{width}}  {summary}")
            if options:
                typer.echo(f"  {'':<{width}}  options: {', '.join(options)}")
