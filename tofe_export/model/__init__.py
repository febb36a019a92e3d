"""ToFe in PyTorch: backbones, selectors, approximators, and one forward for every way to freeze (host)."""
