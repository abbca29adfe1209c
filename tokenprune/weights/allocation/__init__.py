"""How much goes from where, in integer costs; one file per method."""
