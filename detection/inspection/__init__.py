"""Pictures that show what a detector sees and finds."""
