"""Results and their scores: numpy arrays in, numbers and tables out."""
