"""INT8 graphs: which products are quantised, their scales, and a file for their weights (host floor)."""
