"""Static checks of an ONNX graph against the operator matrix of single TensorRT versions.

A TensorRT build needs the device, takes minutes and names one fault at a time; some faults it does not name
at all and computes something else. Everything a parser documents, or its sources show, can be checked on the
file instead: `lint_model` does so for any ONNX file, on any machine, and says of each finding where it is,
who says so, how sure that is, and what mends it. It proves nothing about kernels, memory or speed.
"""
