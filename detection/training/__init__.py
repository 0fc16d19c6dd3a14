"""Training: the loop, its optimizer and its records."""
