"""Graph transformations, one per file, each with its test; `graph.bind` lists which run and in what order."""
