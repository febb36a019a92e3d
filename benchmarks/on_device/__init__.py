"""The parts of `engines.py`: what is run, in which order, what is kept of it, which faults are planted."""
