"""How what stays makes up for what went; one file per method."""
