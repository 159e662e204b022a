"""Trackers: TensorBoard, MLflow and Weights & Biases, fed from what is durably known of a run."""
