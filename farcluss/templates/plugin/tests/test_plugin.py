from farcluss.testing import DatasetTester, WeightTester
from farcluss_NAME.dataset import MyDataset
from farcluss_NAME.weight import MyWeight


class TestMyWeight(WeightTester):
    stage = MyWeight
    options = {"power": 2.0}


class TestMyDataset(DatasetTester):
    dataset = MyDataset
    options = {"images": 3, "size": 16}
