"""Token freezing and reusing (ToFe) for vision transformers: from a checkpoint to a graph with its proof.

This file imports nothing: `tofe-export --help` has to answer at once, and the device floor has to work where
torch, timm and onnx are absent. Import what you need by its full name, such as `tofe_export.runtime.session`.
"""

__version__ = "0.1.0"
