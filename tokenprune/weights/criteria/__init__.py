"""What a weight or a unit is worth; one file per criterion."""
