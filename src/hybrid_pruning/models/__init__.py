"""Models: backbone and head, the artifact on disk, calibration, cohort, ONNX, foreign checkpoints, the hub."""
