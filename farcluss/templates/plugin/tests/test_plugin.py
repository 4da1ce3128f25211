from farcluss.testing import DatasetTester, PixelWeightTester
from farcluss_NAME.dataset import MyDataset
from farcluss_NAME.weight import MyWeight


class TestMyWeight(PixelWeightTester):
    stage = MyWeight
    options = {"power": 2.0}


class TestMyDataset(DatasetTester):
    dataset = MyDataset
    options = {"images": 3, "size": 16}
