"""Choosing pictures for calibration, reference data and accuracy."""
