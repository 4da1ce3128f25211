"""Tests that every plugin should pass, one class per stage kind and one for data sets.

A plugin's test module subclasses the tester of its kind, and pytest collects the inherited tests:

    class TestMargin(PixelWeightTester):
        stage = Margin
        options = {"power": 2.0}

It works with any test runner that calls `test_` methods and does not import pytest. Random inputs are seeded, and
the state of the global generator is restored.

Notation used for shapes: B images, C classes, Cin image channels, K kept classes, D embedding size, *S spatial size.
"""

from farcluss.testing.datasets import DatasetTester
from farcluss.testing.stages import ContrastTester, PixelWeightTester, PseudoLabelTester
from farcluss.testing.views import AugmentTester, MixTester, PerturbTester

__all__ = [
    "AugmentTester",
    "ContrastTester",
    "DatasetTester",
    "MixTester",
    "PerturbTester",
    "PixelWeightTester",
    "PseudoLabelTester",
]
