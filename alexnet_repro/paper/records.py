"""What the logs of the authors' 2012 code have, as data: the notes at the end of its parameter files, net by net.

Errors are fractions and log-losses nats, as printed there. Near-equal nets spread by about ±0.2 points, one run each.
"""

from dataclasses import dataclass

SPREAD = 0.2  # points of top-1 error to either side, of nets that hardly differ (120, 131, 135, 137, 145)


@dataclass(frozen=True)
class Record:
    net: str
    what: str
    data: str
    views: int | None  # 10, or 1: the centre patch; None where the notes do not say
    log_loss: float | None  # None where the notes have the errors only
    top1: float
    top5: float
    epochs: str  # how many, and what is special about the schedule
    experiment: str | None = None  # the file of conf/experiment/ that runs it

    @property
    def errors(self) -> tuple[float, float]:
        """In percent, as the paper prints them."""
        return 100 * self.top1, 100 * self.top5


ILSVRC_2010, ILSVRC_2012 = "ILSVRC-2010 test", "ILSVRC-2012 val"
# The notes do not say of which split _2010 is.
_2010, _2010_VAL, _2009 = "ILSVRC-2010", "ILSVRC-2010 val", "ImageNet-2009"

RECORDS = (
    Record("145", "the paper's network", ILSVRC_2012, 10, 1.741473, 0.406640, 0.182100, "91", "code2012"),
    Record("145", "the paper's network", ILSVRC_2010, 10, 1.614660, 0.374727, 0.169987, "93", "code2012_ilsvrc2010"),
    Record("145", "the paper's network", ILSVRC_2010, 1, 1.706031, 0.390247, 0.182953, "93", "code2012_ilsvrc2010"),
    Record("145", "restarted at 0.001, with colour noise", ILSVRC_2012, 10, 1.725738, 0.402500, 0.179940, "135"),
    Record("145-half", "one column", ILSVRC_2010, 10, 1.702802, 0.391680, 0.182287, "96", "code2012_one_column"),
    Record("146", "CNN*, pretrained on Fall-2011", ILSVRC_2012, 10, 1.633191, 0.389900, 0.166220, "54", "cnn_star"),
    Record("146", "CNN*, pretrained on ImageNet-2009 alone", ILSVRC_2012, 10, 1.646452, 0.391000, 0.168760, "52"),
    Record("147", "pooling 2/2", ILSVRC_2012, 10, 1.757644, 0.410580, 0.185100, "90", "code2012_pool_non_overlapping"),
    Record("148", "no normalisation", ILSVRC_2012, 10, 1.822358, 0.420340, 0.193620, "97", "code2012_no_lrn"),
    Record("150", "no talk before fc8", ILSVRC_2012, 10, 1.811173, 0.418280, 0.193300, "92", "code2012_no_exchange"),
    Record("155", "145, exponential rates 0.02 to 0.000005", ILSVRC_2012, 10, 1.750063, 0.407440, 0.185240, "fixed"),
    Record("155", "145, exponential rates 0.02 to 0.000005", ILSVRC_2012, 1, 1.861853, 0.426530, 0.199652, "fixed"),
    Record("156", "155 to 0.00001", ILSVRC_2012, 10, 1.751178, 0.407640, 0.183500, "fixed"),
    Record("156", "155 to 0.00001", ILSVRC_2012, 1, 1.870253, 0.428933, 0.198336, "fixed"),
    Record("157", "155 from 0.04", ILSVRC_2012, 10, 1.767696, 0.411140, 0.187040, "fixed"),
    Record("157", "155 from 0.04", ILSVRC_2012, 1, 1.880485, 0.431177, 0.203271, "fixed"),
    Record("158", "155 from 0.04 to 0.000002", ILSVRC_2012, 10, 1.757155, 0.410260, 0.185380, "fixed"),
    Record("158", "155 from 0.04 to 0.000002", ILSVRC_2012, 1, 1.862656, 0.428884, 0.199910, "fixed"),
    Record("160", "145, rates 0.02 to 0.00001", ILSVRC_2012, 10, 1.789202, 0.413740, 0.190360, "fixed"),
    Record("160", "145, rates 0.02 to 0.00001", ILSVRC_2012, 1, 1.884187, 0.433855, 0.205452, "fixed"),
    Record("162", "145, three levels to 0.00001", ILSVRC_2012, 1, 1.894451, 0.438533, 0.207935, "fixed"),
    Record("163", "145, rates to 0.00001, twice the decay in fc layers", ILSVRC_2012, 1, 1.849131, 0.429085, 0.199072,
           "fixed"),
    Record("165", "163, rates to 0.00002", ILSVRC_2012, 10, 1.757196, 0.409820, 0.183920, "fixed"),
    Record("165", "163, rates to 0.00002", ILSVRC_2012, 1, 1.847919, 0.427840, 0.198452, "fixed"),
    Record("166", "norm2 below the ReLU", ILSVRC_2012, 10, 1.768124, 0.410960, 0.186740, "fixed"),
    Record("166", "norm2 below the ReLU", ILSVRC_2012, 1, 1.863109, 0.428586, 0.201039, "fixed"),
    Record("167", "no normalisation over conv2", ILSVRC_2012, 10, 1.738715, 0.404880, 0.181180, "fixed",
           "code2012_no_norm2"),
    Record("167", "no normalisation over conv2", ILSVRC_2012, 1, 1.851845, 0.426772, 0.197590, "fixed",
           "code2012_no_norm2"),
    Record("169", "145, rates to 0.00002", ILSVRC_2012, 10, 1.735123, 0.405960, 0.181120, "95, fixed"),
    Record("169", "145, rates to 0.00002", ILSVRC_2012, 1, 1.841218, 0.425298, 0.195489, "95, fixed"),
    Record("169", "the same in 80 epochs", ILSVRC_2012, None, 1.866277, 0.429784, 0.200178, "80, fixed"),
    Record("170", "145, rates to 0.00004", ILSVRC_2012, 10, 1.730076, 0.405280, 0.180480, "about 95, fixed",
           "code2012_fixed"),
    Record("170", "145, rates to 0.00004", ILSVRC_2012, 1, 1.838933, 0.423407, 0.195827, "about 95, fixed",
           "code2012_fixed"),
    Record("170", "images faded in", ILSVRC_2012, 10, 1.726111, 0.402500, 0.181160, "fixed"),
    Record("170", "images faded in", ILSVRC_2012, 1, 1.831731, 0.422944, 0.195334, "fixed"),
    Record("170", "images faded in, more often", ILSVRC_2012, None, 1.836181, 0.425008, 0.196351, "fixed"),
    Record("170", "batches of 256, twice the rate", ILSVRC_2012, None, 1.840643, 0.422726, 0.196598, "84, fixed"),
    Record("170", "half precision between GPUs", ILSVRC_2012, 10, 1.749848, 0.405240, 0.184160, "about 95, fixed"),
    Record("170", "half precision between GPUs", ILSVRC_2012, 1, 1.861123, 0.425700, 0.199970, "about 95, fixed"),
    Record("171", "169 with five levels", ILSVRC_2012, 10, 1.735358, 0.404200, 0.181400, "fixed"),
    Record("171", "169 with five levels", ILSVRC_2012, 1, 1.843676, 0.423356, 0.197664, "fixed"),
    Record("174", "169 with jumping rates", ILSVRC_2012, 10, 1.729982, 0.404380, 0.180420, "86, fixed"),
    Record("174", "169 with jumping rates", ILSVRC_2012, 1, 1.825121, 0.425222, 0.193946, "86, fixed"),
    Record("175", "145, rates to 0.00008", ILSVRC_2012, None, 1.842557, 0.425160, 0.194863, "fixed"),
    Record("177", "170 with dropout over conv4", ILSVRC_2012, 10, 1.744414, 0.406900, 0.183040, "fixed"),
    Record("177", "170 with dropout over conv4", ILSVRC_2012, 1, 1.836304, 0.424376, 0.197056, "fixed"),
    Record("178", "170 with random pooling in pool2 for 31 epochs", ILSVRC_2012, None, 1.845021, 0.424038, 0.197017,
           "fixed"),
    Record("120", "older, smaller conv1", ILSVRC_2012, 10, 1.765247, 0.410440, 0.187140, "95"),
    Record("131", "120, norm1 right over conv1", ILSVRC_2012, 10, 1.755725, 0.409340, 0.185740, "100"),
    Record("135", "131 with k = 2", ILSVRC_2012, 10, 1.757653, 0.410700, 0.184160, "96"),
    Record("137", "135, response normalisation within maps", ILSVRC_2012, 10, 1.751138, 0.407820, 0.183440, "99"),
    Record("137", "135, response normalisation within maps", ILSVRC_2010, 10, 1.623185, 0.376167, 0.171247, "103"),
    Record("137", "135, response normalisation within maps", _2010_VAL, 10, 1.632875, 0.377960, 0.171020, "103"),
    Record("137", "135, response normalisation within maps", _2010_VAL, 1, 1.727592, 0.394153, 0.182784, "103"),
    Record("106", "older", _2010, None, 1.594247, 0.370578, 0.166722, "93"),
    Record("conv94", "older, five layers", _2010, None, None, 0.381072, 0.176089, "90"),
    Record("98", "older, pretrained on 16,000 classes", _2010, None, None, 0.371321, 0.167978, "71"),
    Record("112", "101 with windows of 5 instead of 9", _2010, None, 1.606499, 0.372378, 0.168156, "90"),
    Record("118", "older, JPEGs", _2010, None, 1.640873, 0.378313, 0.173560, "98"),
    Record("120", "older, smaller conv1", _2010, None, 1.634692, 0.378533, 0.172360, "106"),
    Record("141", "six layers; 2012, then 2009", _2010, None, 1.511725, 0.356707, 0.154893, "54"),
    Record("141", "six layers; 2012, then 2009", ILSVRC_2012, 10, 1.671316, 0.395620, 0.172060, "54"),
    Record("141", "six layers; 2012, then 2009", ILSVRC_2012, 1, 1.779082, 0.415920, 0.186780, "54"),
    Record("101", "older, five layers", _2009, None, 3.462006, 0.693822, 0.436466, "33"),
    Record("131", "five layers", _2009, None, 3.466260, 0.694209, 0.437308, "36"),
)  # fmt: skip


def record(net: str, data: str, views: int) -> Record:
    """The first of this net on these data, which is the plain one."""
    return next(one for one in RECORDS if (one.net, one.data, one.views) == (net, data, views))


def as_markdown() -> str:
    """docs/records.md: every result on record, in percent, and the experiment that runs the same."""
    lines = [
        "# The records of 2012",
        "",
        "What came of each net, as the notes in the parameter files of the authors' code say (published by the",
        "Computer History Museum). `python -m alexnet_repro.claims records=true` prints this page. Errors in percent.",
        "Rates were lowered by hand or, where the epochs are called *fixed*, at times set in advance. Where no split",
        "or number of views is given, the notes have none.",
        "",
        "Numbers of one view are mostly no counts over the whole split: in training the code prints means over its",
        "last tests, each of one file of images. Those of nets 141 and 145 are counts, as all of ten views are.",
        "",
        f"Nets that hardly differ (120, 131, 135, 137, 145) spread by about ±{SPREAD} points of top-1 error, one run",
        "each. Differences of a few tenths, such as section 3.4's 0.4 / 0.3, are close to that.",
        "",
        "| net | what | data | views | log-loss | top-1 | top-5 | epochs | `experiment=` |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in RECORDS:
        top1, top5 = one.errors
        loss = "" if one.log_loss is None else f"{one.log_loss:.6f}"
        experiment = f"`{one.experiment}`" if one.experiment else ""
        cells = [one.net, one.what, one.data, str(one.views or ""), loss, f"{top1:.3f}", f"{top5:.3f}"]
        lines.append("| " + " | ".join([*cells, one.epochs, experiment]) + " |")
    return "\n".join(lines) + "\n"
