"""Trained detectors at work."""

from detection.quick_import import import_torchvision

import_torchvision()  # before anything else imports it
