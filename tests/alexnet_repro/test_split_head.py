"""The head of CNN*'s pretraining, whose classes lie in shares on the devices, against a whole one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import assert_network_sensitive, model_config, small

from alexnet_repro.evaluation.metrics import TOP_K, label_ranks
from alexnet_repro.model import AlexNet, place
from alexnet_repro.training.log_loss import correct_among, log_loss_sum
from data_prep.common.errors import RequestError

CPU = torch.device("cpu")
NARROW = ["model=code2012_bottleneck", "model.conv6.kernels=8", "model.bottleneck.units=10"]


def whole_of(split: AlexNet) -> AlexNet:
    """The same network with its output layer in one piece."""
    weights = split.state_dict()
    for kind in ("weight", "bias"):
        weights[f"fc8.a.{kind}"] = torch.cat([weights[f"fc8.a.{kind}"], weights.pop(f"fc8.b.{kind}")])
    whole = small(*NARROW, "model.fc8.split=false")
    whole.load_state_dict(weights)
    return whole


@pytest.mark.parametrize("training", [True, False])
def test_a_head_in_shares_is_the_whole_one(training: bool) -> None:
    """Outputs, loss, and every gradient; float64, sums in another order: 1e-10. Seven classes, three and four.

    Catches classes in the wrong order, a softmax within a share, a gradient that stays in one column.
    """
    split = place(small(*NARROW), [CPU, CPU]).train(training)
    assert [len(part.weight) for part in split.fc8.parts()] == [3, 4]
    whole = whole_of(split).train(training)
    assert_network_sensitive(whole.eval(), 1e-10)
    whole.train(training)
    images = torch.rand(6, 3, 67, 67, dtype=torch.float64) * 255 - 127.5
    labels = torch.tensor([0, 6, 2, 3, 5, 2])  # the last of one share and the first of the other among them
    for model in (split, whole):
        model.seed_dropout(3, 1)
    shares, expected = split(images, joined=False), whole(images)
    assert [share.shape[1] for share in shares] == [3, 4]
    torch.testing.assert_close(torch.cat(shares, 1), expected, rtol=1e-10, atol=1e-12)
    loss = log_loss_sum(shares, labels)
    of_whole = F.cross_entropy(expected, labels, reduction="sum")
    torch.testing.assert_close(loss, of_whole, rtol=1e-10, atol=0)
    loss.backward()
    of_whole.backward()
    gradients = {name: parameter.grad for name, parameter in split.named_parameters()}
    for name, parameter in whole.named_parameters():
        names = [name, name.replace(".a.", ".b.")] if name.startswith("fc8") else [name]
        found = [gradients[one] for one in names]
        ours = torch.cat([gradient for gradient in found if gradient is not None])
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        assert (ours - parameter.grad).norm() <= 1e-10 * parameter.grad.norm(), name
    if not training:  # a pass of its own draws masks of its own
        torch.testing.assert_close(split(images), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("widths", [(7,), (3, 4), (1, 1, 5)], ids=str)
def test_right_answers_are_counted_as_in_evaluation(widths: tuple[int, ...]) -> None:
    """Against label_ranks, which scikit-learn's numbers are compared with; with many ties."""
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.integers(0, 3, (400, 7)) / 8)
    labels = torch.from_numpy(rng.integers(0, 7, 400))
    ranks = label_ranks(logits.numpy(), labels.numpy())
    counted = correct_among(logits.split(widths, 1), labels)
    assert counted.tolist() == [int((ranks < k).sum()) for k in TOP_K]


def test_fewer_classes_than_columns_are_refused() -> None:
    with pytest.raises(RequestError, match=r"model\.fc8\.split=true: 1 class\(es\) for 2 columns"):
        AlexNet(model_config(*NARROW), classes=1)


def test_large_logits_of_one_share_do_not_overflow() -> None:
    """exp(500) is no float32; the loss of a label in the other share is the distance of the two."""
    shares = [torch.tensor([[500.0, 0.0]]), torch.tensor([[-500.0, 0.0, 1.0]])]
    assert log_loss_sum(shares, torch.tensor([2])).item() == pytest.approx(1000.0)
    assert log_loss_sum(shares, torch.tensor([0])).item() == 0.0
