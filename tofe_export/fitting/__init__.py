"""ToFe without training: selectors, approximators and keep counts from unlabelled images."""
