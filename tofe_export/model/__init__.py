"""ToFe in PyTorch: backbones, selectors, approximators, and one forward with several ways to freeze (host floor)."""
