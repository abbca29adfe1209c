"""Scrape with an instruction instead of a question: drop the furniture, then keep what is asked for."""

import tokenprune as tp

PRODUCTS = [
    ("Trail lamp", "$24.90", "Head torch with a red light, 180 lumens, weighs 62 g."),
    ("Field kettle", "$39.00", "Steel kettle of 1.2 litres for open fires."),
    ("Pocket stove", "$58.50", "Gas stove that folds into its own cup."),
    ("Summit tent", "$310.00", "Tent for two people, three seasons, 1.9 kg."),
]
CARDS = "\n".join(
    f'<div class="card"><h3><a href="/p/{n}">{name}</a></h3>'
    f'<span class="price">{price}</span><p>{about}</p><a href="/cart?add={n}">Add to cart</a></div>'
    for n, (name, price, about) in enumerate(PRODUCTS)
)
PAGE = f"""<!doctype html><html><head><title>Camping gear | Northwood Outfitters</title></head><body>
<div id="cookie-notice">We use cookies and share data with partners. <button>Accept all</button></div>
<nav><ul><li><a href="/">Home</a><li><a href="/camp">Camping</a><li><a href="/climb">Climbing</a></ul></nav>
<main><h1>Camping gear</h1><div class="grid">{CARDS}</div></main>
<div class="newsletter"><p>Sign up for our newsletter and get 10% off your first product.</p></div>
<footer><p>Northwood Outfitters, 12 Mill Lane. Free shipping of products over $50.</p></footer>
</body></html>"""

pipeline = tp.Pipeline(["boilerplate", tp.pruner("hybrid", output="text")])
result = pipeline.prune("extract the names and prices of all products", [tp.Document(PAGE, id="shop")])

print(f"{result.tokens_before} -> {result.tokens_after} tokens")
print(result.documents[0].text)
