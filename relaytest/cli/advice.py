"""`relaytest advice`: what closes a relay, for its owner."""

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from relaytest.cli.common import AsJson
from relaytest.core.advice import Product
from relaytest.daemons import shipped


def command(
    software: Annotated[str, typer.Argument(help="Name, or greeting; empty: all.")] = "",
    as_json: AsJson = False,
) -> None:
    """Say what to set in a mail server so that it does not relay for strangers."""
    found = _named(software)
    if as_json:
        print(json.dumps([_as_json(product) for product in found], indent=2))
    else:
        print("\n\n".join(_as_text(product) for product in found))


def _named(software: str) -> list[Product]:
    """Products by a part of the name, or by what one says."""
    products = shipped.advice().products
    named = [one for one in products if software.casefold() in one.name.casefold()]
    looks_like = shipped.advice().product_of(software)
    if not named and looks_like is None:
        known = ", ".join(one.name for one in products)
        raise typer.BadParameter(f"no advice for {software!r}; there is for {known}")
    return named or [one for one in (looks_like,) if one]


def _as_text(product: Product) -> str:
    settings = "".join(f"\n  * {text}" for text in product.settings)
    verify = "".join(f"\n  $ {text}" for text in product.verify)
    return f"{product.name}{settings}\nTo see whether it is done:{verify}\n{product.source}"


def _as_json(product: Product) -> dict[str, Any]:
    return asdict(product) | {"match": [pattern.pattern for pattern in product.match]}
