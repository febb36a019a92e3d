"""Half-precision graphs: which nodes stay float32, and proof that the others may be rounded (host floor)."""
