"""Training of the small models that ship with the package; nothing at run time imports this room."""
