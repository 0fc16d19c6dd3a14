"""Localization: from the label of an image to its box (RN, appendix C)."""
