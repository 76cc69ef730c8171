"""The step of step.py in its fast form: the network of model/fast.py, and, where all columns lie on one GPU, everything
from the input to the update captured once as a CUDA graph and replayed from then on: the host submits a step in a
fraction of a millisecond. Where each column has its own GPU, what lies between two exchanges is captured for each
(FastNetwork.capture), and the rest, input, exchanges, loss and update, is submitted step by step.

The graph of a step repeats what was captured, so whatever changes from step to step lies in tensors that stay where
they are: the batch is copied into them, and dropout masks are drawn into them, from the same generators as in the plain
form. What changes seldom (rates, frozen layers, colour noise on or off) leads to a new capture. The graphs between
exchanges hold none of that, and are captured once. A batch of another size, the short last one of an epoch, takes the
plain step.
"""

import gc
from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor

from alexnet_repro.data import Batch, ColourNoise, ColumnInputs
from alexnet_repro.data.fused_input import FusedInputTransform
from alexnet_repro.model import AlexNet
from alexnet_repro.model.fast import FastNetwork
from alexnet_repro.model.layers import Dropout
from alexnet_repro.training.optimisers import Optimiser
from alexnet_repro.training.ranks import Ranks
from alexnet_repro.training.sgd import PaperSGD
from alexnet_repro.training.step import PendingResult, Stepper

_WARM_UP = 3  # steps before a capture: libraries are set up, and cuDNN tries its algorithms


class FastStepper(Stepper):
    """As Stepper, where runtime.fast_form allows it: in one process, so that no rank is in a step's seed, and nobody is
    to be told of `stop`.
    """

    def __init__(
        self, model: AlexNet, optimiser: Optimiser, inputs: ColumnInputs, seed: int, ranks: Ranks, precision: str,
        noise: ColourNoise | None, batch_size: int,
    ) -> None:  # fmt: skip
        """Batches of `batch_size` take the fast step, all others the plain one."""
        super().__init__(model, optimiser, inputs, seed, ranks, precision)
        self.fast = FastNetwork(self.model, self.precision)
        self._transforms = {
            device: FusedInputTransform(self.inputs.rule, noise, device, self.fast.layout, self.fast.dtype)
            for device in self.fast.devices
        }
        self._batch_size = batch_size
        self._masks = {
            name: [
                torch.empty(batch_size, layer.map_shape[0], dtype=self.fast.dtype, device=part.weight.device)
                for part in layer.parts()
            ]
            for name, layer in self.model.layers().items()
            if any(isinstance(module, Dropout) for module in layer.modules())
        }
        self._graph: torch.cuda.CUDAGraph | None = None
        self._captured: object = None  # the `_constants` at the end of the capture
        self._batch: Batch | None = None  # the graph's input: each batch is copied into it
        self._numbers: Tensor | None = None  # the graph's output
        self._side: torch.cuda.Stream | None = None  # where it was captured
        self.captures_steps = self.fast.together and isinstance(self.optimiser, PaperSGD)

    def __call__(
        self, batch_on: Mapping[torch.device, Batch], step: int, with_noise: bool, stop: bool
    ) -> PendingResult:
        batch = batch_on[self.fast.devices[0]]
        if len(batch.labels) != self._batch_size or self._batch_size > self.fast.most_images:
            return super().__call__(batch_on, step, with_noise, stop)
        self.model.seed_dropout(self.seed, step)
        for dropout, mask in zip(self.model.dropouts, chain(*self._masks.values()), strict=True):
            dropout.draw(mask)
        if not self.captures_steps:
            return PendingResult(self._step(batch_on, with_noise), batch.total)
        self._keep(batch)
        if self._captured != self._constants(with_noise):
            self._capture(with_noise)
            self._captured = self._constants(with_noise)
        assert self._graph is not None and self._numbers is not None
        self._graph.replay()
        return PendingResult(self._numbers, batch.total)

    def _constants(self, with_noise: bool) -> object:
        """What a graph holds as numbers, and the rates that velocities are scaled for, which a plain step changes."""
        return with_noise, [(group["lr"], group["buffer_rate"]) for group in self.optimiser.param_groups]

    def _step(self, batch_on: Mapping[torch.device, Batch], with_noise: bool) -> Tensor:
        images = [t(batch_on[d].images, batch_on[d].drawn(with_noise)) for d, t in self._transforms.items()]
        if not self.fast.together and not self.fast.captured:
            self.fast.capture(images, self._masks)
        logits = self.fast(images, self._masks)
        return self.learn([logits], batch_on[logits.device])

    def _keep(self, batch: Batch) -> None:
        """Copies the batch to where the graph reads it."""
        if self._batch is None:
            self._batch = batch.map(torch.clone)
            return
        for kept, tensor in zip(self._batch.tensors().values(), batch.tensors().values(), strict=True):
            kept.copy_(tensor, non_blocking=True)

    def _capture(self, with_noise: bool) -> None:
        """Changes nothing of the network: `found_inf` holds back the updates of the steps before the capture."""
        assert isinstance(self.optimiser, PaperSGD) and self._batch is not None
        found_inf = self.optimiser.found_inf
        assert found_inf is not None
        batch_on = dict.fromkeys(self.fast.devices, self._batch)
        self._graph = self._numbers = None  # gives its memory back
        self.optimiser.prepare_capture()
        before = found_inf.clone()
        found_inf.fill_(1)
        if self._side is None:
            self._side = torch.cuda.Stream(found_inf.device)
        side = self._side
        side.wait_stream(torch.cuda.current_stream(found_inf.device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self._step(batch_on, with_noise)
        torch.cuda.current_stream(found_inf.device).wait_stream(side)
        found_inf.copy_(before)
        self.optimiser.zero_grad(set_to_none=True)
        gc.collect()  # what is freed during a capture, such as another run's graphs, would end it
        graph = torch.cuda.CUDAGraph()
        # A stream of our own: PyTorch's is on whatever GPU was current when it was first used. thread_local: what other
        # threads ask of the GPU meanwhile does not end the capture.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            self._numbers = self._step(batch_on, with_noise)
        self._graph = graph
