"""Finding out, for one language model, which layer and heads know the tokens that answer a question."""
