"""What the paper measured, as data: its tables and its ablations. Error rates in percent."""

from dataclasses import dataclass

from alexnet_repro.paper.records import ILSVRC_2010, ILSVRC_2012, record


@dataclass(frozen=True)
class PaperRow:
    """A line of a table. `data`: release and split; `views` and `networks`: how many were averaged."""

    table: str
    model: str
    data: str
    views: int | None
    top1: float | None
    top5: float | None
    networks: int | None = None  # None for earlier work
    sixth_layer: bool = False  # CNN*: some have a sixth convolutional layer and saw the Fall-2011 release first


TABLE_1 = (
    PaperRow("Table 1", "sparse coding", "ILSVRC-2010 test", None, 47.1, 28.2),
    PaperRow("Table 1", "SIFT + FVs", "ILSVRC-2010 test", None, 45.7, 25.7),
    PaperRow("Table 1", "CNN", "ILSVRC-2010 test", 10, 37.5, 17.0, networks=1),
    PaperRow("section 6", "CNN", "ILSVRC-2010 test", 1, 39.0, 18.3, networks=1),
)
TABLE_2 = (
    PaperRow("Table 2", "SIFT + FVs", "ILSVRC-2012 test", None, None, 26.2),
    PaperRow("Table 2", "1 CNN", "ILSVRC-2012 val", 10, 40.7, 18.2, networks=1),
    PaperRow("Table 2", "5 CNNs", "ILSVRC-2012 val", 10, 38.1, 16.4, networks=5),
    PaperRow("Table 2", "1 CNN*", "ILSVRC-2012 val", 10, 39.0, 16.6, networks=1, sixth_layer=True),
    PaperRow("Table 2", "7 CNNs*", "ILSVRC-2012 val", 10, 36.7, 15.4, networks=7, sixth_layer=True),
    PaperRow("Table 2", "5 CNNs", "ILSVRC-2012 test", 10, None, 16.4, networks=5),
    PaperRow("Table 2", "7 CNNs*", "ILSVRC-2012 test", 10, None, 15.3, networks=7, sixth_layer=True),
)
# Section 6: half of ImageNet-2009's 8.9 M images in 10,184 classes for training, the other half for this. The number of
# views is not given.
IMAGENET_2009 = (
    PaperRow("section 6", "best published before", "ImageNet-2009 test", None, 78.1, 60.9),
    PaperRow("section 6", "CNN of six layers", "ImageNet-2009 test", None, 67.4, 40.9, networks=1, sixth_layer=True),
)


def paper_row(release: str | None, split: str | None, views: int, networks: int, sixth_layer: bool) -> PaperRow | None:
    """The row that was measured in this way, if there is one: on `split` of the whole of `release` ("ILSVRC-2012"),
    averaging so many views and networks; `sixth_layer`: networks that are CNN*, with a sixth convolutional layer.

    `release` None: the data are not all of a release. `split` None: whichever one the paper tested its networks on.
    """
    for candidate in (*TABLE_1, *TABLE_2):
        same_data = candidate.data == f"{release} {split}" if split else candidate.data.startswith(f"{release} ")
        measured = (candidate.views, candidate.networks, candidate.sixth_layer)
        # Not Table 2's test column: its labels are not public, so a test split with labels has other images.
        if candidate.top1 is not None and same_data and measured == (views, networks, sixth_layer):
            return candidate
    return None


@dataclass(frozen=True)
class Ablation:
    """A pair of networks: in the paper, or on record, `better` reaches errors lower by so many points than `worse`.

    Both name a file of conf/model/; where they are the same, the pair differs in the colour noise alone. `section` is
    None for a pair that the paper does not compare. `nets`: the nets of 2012 that this pair is, better and worse.
    """

    section: str | None
    better: str
    worse: str
    claim: str
    top1: float | None
    top5: float | None
    nets: tuple[str, str] | None = None
    recorded_on: str = ILSVRC_2012

    def recorded(self) -> tuple[float, float] | None:
        """The errors of `worse` minus those of `better` in points, ten views, as the logs of 2012 have them."""
        if self.nets is None:
            return None
        better, worse = (record(net, self.recorded_on, 10).errors for net in self.nets)
        return worse[0] - better[0], worse[1] - better[1]


def _as_printed_and_as_run(
    section: str, variant: str, claim: str, top1: float, top5: float, nets: tuple[str, str], on: str = ILSVRC_2012
) -> tuple[Ablation, Ablation]:
    """An ablation of the text's network, and the same of net 145, whose results the paper prints."""
    return (
        Ablation(section, "paper", variant, claim, top1, top5, nets, on),
        Ablation(section, "code2012", f"code2012_{variant}", claim, top1, top5, nets, on),
    )


ABLATIONS = (
    *_as_printed_and_as_run(
        "3.2", "one_column", "two columns beat one by 1.7 (top-1) and 1.2 points (top-5)", 1.7, 1.2,
        ("145", "145-half"), ILSVRC_2010,
    ),
    *_as_printed_and_as_run(
        "3.3", "no_lrn", "normalisation is worth 1.4 (top-1) and 1.2 points (top-5)", 1.4, 1.2, ("145", "148")
    ),
    *_as_printed_and_as_run(
        "3.4", "pool_non_overlapping", "overlapping pooling is worth 0.4 (top-1) and 0.3 points (top-5)", 0.4, 0.3,
        ("145", "147"),
    ),
    *(
        Ablation("7", "paper", f"no_{layer}", "removing a middle layer costs about 2 points (top-1)", 2.0, None)
        for layer in ("conv2", "conv3", "conv4", "conv5")
    ),
    Ablation("4.1", "paper", "paper", "the colour noise is worth over 1 point (top-1)", 1.0, None),
    *(
        Ablation(None, better, worse, "columns that never talk before fc8 are worse", None, None, ("145", "150"))
        for better, worse in (("paper", "no_exchange"), ("code2012", "code2012_no_exchange"))
    ),
    Ablation(
        None, "code2012", "code2012_no_norm2", "the normalisations over conv2 are worth nothing", None, None,
        ("170", "167"),
    ),
    *(
        Ablation(None, better, worse, "the exchange at conv4 is worse than at conv3, by no number", None, None)
        for better, worse in (("paper", "exchange_at_conv4"), ("code2012", "code2012_exchange_at_conv4"))
    ),
)  # fmt: skip

# Section 3.5: the neurons of each layer, as the text lists them after the 150,528 inputs.
NEURONS = {
    "conv1": 253_440, "conv2": 186_624, "conv3": 64_896, "conv4": 64_896, "conv5": 43_264,
    "fc6": 4096, "fc7": 4096, "fc8": 1000,
}  # fmt: skip
NEURONS_OF_ABSTRACT = 650_000
CONV1_REMARK = "253,440 is 55 x 48 x 96; Figure 2's maps of 55 x 55 make 290,400"
