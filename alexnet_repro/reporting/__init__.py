"""What a person sees: progress, TensorBoard, figures, and the paper's numbers to compare with."""
