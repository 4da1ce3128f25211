"""The smallest farcluss plugin: a pixel weight and a data set."""
