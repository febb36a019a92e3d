"""From a PyTorch model to static ONNX graphs: trace once, bind and lower per budget (host floor)."""
