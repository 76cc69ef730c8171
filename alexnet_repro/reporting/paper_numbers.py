"""Tables 1 and 2 of the paper as data: error rates in percent."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperRow:
    table: str
    model: str
    data: str
    views: int | None
    top1: float | None
    top5: float | None


TABLE_1 = (
    PaperRow("Table 1", "sparse coding", "ILSVRC-2010 test", None, 47.1, 28.2),
    PaperRow("Table 1", "SIFT + FVs", "ILSVRC-2010 test", None, 45.7, 25.7),
    PaperRow("Table 1", "CNN", "ILSVRC-2010 test", 10, 37.5, 17.0),
    PaperRow("section 6", "CNN", "ILSVRC-2010 test", 1, 39.0, 18.3),
)
TABLE_2 = (
    PaperRow("Table 2", "SIFT + FVs", "ILSVRC-2012 test", None, None, 26.2),
    PaperRow("Table 2", "1 CNN", "ILSVRC-2012 val", 10, 40.7, 18.2),
    PaperRow("Table 2", "5 CNNs", "ILSVRC-2012 val", 10, 38.1, 16.4),
    PaperRow("Table 2", "1 CNN*", "ILSVRC-2012 val", 10, 39.0, 16.6),
    PaperRow("Table 2", "7 CNNs*", "ILSVRC-2012 val", 10, 36.7, 15.4),
)

# Section 3.5: the neurons of each layer, as the text lists them after the 150,528 inputs.
NEURONS = {
    "conv1": 253_440, "conv2": 186_624, "conv3": 64_896, "conv4": 64_896, "conv5": 43_264,
    "fc6": 4096, "fc7": 4096, "fc8": 1000,
}  # fmt: skip
NEURONS_OF_ABSTRACT = 650_000
CONV1_REMARK = "253,440 is 55 x 48 x 96; Figure 2's maps of 55 x 55 make 290,400"
