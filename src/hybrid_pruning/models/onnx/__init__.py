"""A model as an ONNX graph: written with torch, run without."""
