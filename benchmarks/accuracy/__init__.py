"""The experiment: ToFe, its ablations, controls and neighbours at equal cost on one backbone (run.py)."""
