from farcluss.testing import DatasetTester, PixelWeightTester
from farcluss_example.margin import Margin
from farcluss_example.stripes import Stripes


class TestMargin(PixelWeightTester):
    stage = Margin
    options = {"power": 2.0}


class TestStripes(DatasetTester):
    dataset = Stripes
    options = {"images": 3, "size": 16}
