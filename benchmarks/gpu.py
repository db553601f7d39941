"""A GPU: what it can do, the network alone in several forms, and the refiner end to end.

    python benchmarks/gpu.py                                            # about two minutes
    python benchmarks/gpu.py --sections graphs compiled                 # these alone
    python benchmarks/gpu.py --device cpu --batches 1 2 --images 1 --side 256 --seconds 0.1     # tries the script

Every figure is the median of five blocks of runs, each between two synchronisations, after a warm-up. A variant that
fails shows the error in its place. "TF32" is torch's default for float32 convolutions on a GPU, and the library's.
"Planar" is crops and weights in channel planes; otherwise channels come last. The share of the matrix peak counts
2 operations per multiplication; that of the copy rate counts each convolution's input and output once, the least that
must move if nothing else did.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from engines import make_people
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from posefix.inference.crops import Prediction, Prepared
from posefix.inference.decoding import count_outliers
from posefix.inference.options import Options
from posefix.inference.refiner import Refiner
from posefix.inference.runner import View
from posefix.inference.streams import usable_cores
from posefix.inference.torch_model import build_network
from posefix.network.inputs import NetworkInput
from posefix.network.model import RefinementNetwork
from posefix.weights.weights import Weights, load_weights

Run = Callable[[], object]
SECTIONS = ("network", "parts", "end-to-end", "graphs", "compiled", "searched")


class Clock:
    """Times work on one device: for ``seconds`` each, and nothing more once the budget is spent."""

    def __init__(self, device: torch.device, seconds: float, budget: float) -> None:
        self.device, self.seconds, self.end = device, seconds, time.perf_counter() + budget
        self.sync = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def block(self, run: Run, count: int) -> float:
        """Seconds of one of ``count`` runs."""
        self.sync()
        start = time.perf_counter()
        for _ in range(count):
            run()
        self.sync()
        return (time.perf_counter() - start) / count

    def time(self, run: Run) -> float:
        """Seconds of one run."""
        self.block(run, 2)
        count = max(int(self.seconds / 5 / self.block(run, 1)), 1)
        return statistics.median(self.block(run, count) for _ in range(5))

    def cell(self, measure: Callable[[], float], digits: int = 0) -> float:
        """Print what ``measure`` gives, or the first line of its error; 0 then."""
        value, text = 0.0, "no time"
        if time.perf_counter() < self.end:
            try:
                value = measure()
                text = f"{value:.{digits}f}"
            except Exception as error:  # one variant must not lose the others
                text = f"{type(error).__name__}: {error}".splitlines()[0][:80]
        print(f"{text:>10}", end=" ", flush=True)
        return value


def rates(clock: Clock, side: int) -> tuple[float, float]:
    """Measured bfloat16 matrix peak in FLOP/s and copy rate in bytes/s, read and written."""
    device = clock.device
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    matrix = 2 * side**3 / clock.time(lambda: a @ b)
    big = torch.randint(0, 255, (min(side * side * 16, 2**30),), dtype=torch.uint8, device=device)
    other = torch.empty_like(big)
    copy = 2 * big.numel() / clock.time(lambda: other.copy_(big))
    print(f"matrix product of bfloat16 {side}³: {matrix / 1e12:.1f} TFLOP/s")
    print(f"copy on the device: {copy / 1e12:.3f} TB/s, read and written")
    if device.type == "cuda":
        host = torch.randint(0, 255, (2**26,), dtype=torch.uint8)
        for name, source in (("pageable", host), ("pinned", host.pin_memory())):
            rate = host.numel() / clock.time(lambda s=source: s.to(device, non_blocking=True))
            print(f"from {name} memory: {rate / 1e9:.1f} GB/s")
    return matrix, copy


def random_inputs(weights: Weights, count: int) -> NetworkInput:
    """Arrays of people who need no image."""
    rng = np.random.default_rng(0)
    keypoints, hw = weights.config.num_keypoints, weights.config.input_hw
    return NetworkInput(
        rng.integers(0, 256, (count, *hw, 3), dtype=np.uint8),
        rng.uniform(0, hw[::-1], (count, keypoints, 2)).astype(np.float32),
        np.ones((count, keypoints), bool),
        rng.uniform(2, 20, (count, keypoints)).astype(np.float32),
        np.ones((count, keypoints), np.float32),
    )


def cost(weights: Weights) -> tuple[float, float]:
    """Floating-point operations and convolutions' numbers read and written, per crop."""
    network, moved = build_network(weights, torch.device("cpu"), "float32"), [0]

    def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        moved[0] += inputs[0].numel() + output.numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network.image_logits_and_peaks(random_inputs(weights, 1).to("cpu"))
    return float(counter.get_total_flops()), float(moved[0])


@dataclass(frozen=True)
class Variant:
    """One way to run the network.

    Attributes:
        precision: ``"float32"``, ``"TF32"`` or ``"bfloat16"``.
        form: ``"eager"``, ``"compiled"``, ``"graph"`` (captured as a CUDA graph) or ``"compiled graph"``.
        planar: channels in planes.
        search: let cuDNN try its algorithms.
    """

    precision: str
    form: str
    planar: bool = False
    search: bool = False

    def __str__(self) -> str:
        return " ".join([self.precision, self.form, *["planar"] * self.planar, *["searched"] * self.search])

    def network(self, weights: Weights, device: torch.device) -> RefinementNetwork:
        """The network in this precision and layout; sets torch's switches."""
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self.precision == "TF32"
        torch.backends.cudnn.benchmark = self.search
        network = build_network(weights, device, "bfloat16" if self.precision == "bfloat16" else "float32")
        return network.to(memory_format=torch.contiguous_format) if self.planar else network

    def run(self, network: RefinementNetwork, inputs: NetworkInput) -> Run:
        """What to time, on tensors on the device."""
        crops = inputs.crops.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1) if self.planar else inputs.crops
        arguments = (crops, inputs.crop_points, inputs.valid, inputs.std, inputs.scores)

        def call(*tensors: Tensor) -> Tensor:
            return network.image_logits_and_peaks(NetworkInput(*tensors))[0]

        if self.form.startswith("compiled"):
            torch._dynamo.reset()
            call = torch.compile(call, dynamic=False)
        return captured(lambda: call(*arguments)) if self.form.endswith("graph") else lambda: call(*arguments)


def captured(run: Run) -> Run:
    """The same work as one CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return lambda: (graph.replay(), run)  # which holds the tensors that the graph reads


@torch.inference_mode()
def speed(clock: Clock, weights: Weights, variant: Variant, count: int) -> float:
    """Crops per second of passes of ``count`` crops."""
    inputs = random_inputs(weights, count).to(clock.device)
    return count / clock.time(variant.run(variant.network(weights, clock.device), inputs))


def network_alone(
    clock: Clock, weights: Weights, floors: tuple[float, float], variants: Sequence[Variant], batches: Sequence[int]
) -> None:
    """Crops per second of each variant; ``floors`` are a crop's least seconds by arithmetic and by bytes moved."""
    columns = "".join(f"{b:>10} " for b in batches)
    print(f"\n{'network alone, crops/s':<27}{columns}{'matrix peak':>12}{'copy rate':>11}")
    for variant in variants:
        print(f"{variant!s:<27}", end="", flush=True)
        crops = 0.0
        for count in batches:
            crops = clock.cell(partial(speed, clock, weights, variant, count))
            torch.cuda.empty_cache()
        size = 2 if variant.precision == "bfloat16" else 4
        print(f"{crops * floors[0]:>11.2%} {crops * floors[1] * size:>10.1%}")
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False  # torch's defaults
    torch.backends.cudnn.benchmark = False


def end_to_end(clock: Clock, weights: Weights, images: int, batches: Sequence[int]) -> None:
    """People per second through ``refine_batch``, by threads that cut crops and people per pass."""
    arrays, poses = make_people(images)
    people, cores = sum(map(len, poses)), usable_cores()

    def rate(refiner: Refiner, size: int) -> float:
        seconds = [clock.block(lambda: refiner.refine_batch(arrays, poses, batch_size=size), 1) for _ in range(4)]
        return people / statistics.median(seconds[1:])

    print(f"\n{'end to end, people/s':<27}" + "".join(f"{b:>10} " for b in batches))
    for precision in ("float32", "bfloat16"):
        for threads in sorted({1, min(4, cores), min(8, cores), cores}):
            print(f"{f'{precision}, {threads} threads':<27}", end="", flush=True)
            refiner = Refiner(weights, device=clock.device, precision=precision, threads=threads)
            for size in batches:
                clock.cell(partial(rate, refiner, size))
            print()


def parts(refiner: Refiner, images: int) -> list[tuple[str, Run, int]]:
    """Each part of the refinement of some images in one pass, then one person alone: what to time, and people."""
    arrays, poses = make_people(images)
    model, network, device = refiner.model, refiner.network, refiner.device

    def prepare() -> list[Prepared]:
        return [refiner.prepare(i, p) for i, p in zip(arrays, poses, strict=True)]

    def decode(*views: View) -> Prediction:
        return model.decode(views, np.ones(len(views[0].inputs)), "expected_similarity")

    prepared = prepare()
    join = partial(NetworkInput.join, [p.inputs for p in prepared])
    inputs = join()
    people, one, given, view = len(inputs), inputs.take(slice(0, 1)), inputs.to(device), model.forward(inputs)
    found = decode(view)
    return [
        ("crops", prepare, people),
        ("join", join, people),
        ("copy", lambda: inputs.to(device), people),
        ("network", torch.inference_mode()(lambda: network.image_logits_and_peaks(given)), people),
        ("outliers", lambda: count_outliers(view.image_logits, given, refiner.config.codec).cpu(), people),
        ("decode", lambda: decode(view), people),
        ("paste", lambda: refiner.paste_back(prepared, found, Options(prior_weight=1.0)), people),
        ("one crop", lambda: decode(model.forward(one)), 1),
        ("refine", lambda: refiner.refine(arrays[0], poses[0][:1]), 1),
    ]


def where_time_goes(clock: Clock, weights: Weights, images: int) -> None:
    """Time of each part of refinement, one after the other; latency of one person; memory."""
    for precision in ("float32", "bfloat16"):
        if clock.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found = parts(Refiner(weights, device=clock.device, precision=precision, threads=1), images)
        print(f"\n{f'{precision}, {found[0][2]} people':<27}" + "".join(f"{name:>10} " for name, _, _ in found))
        print(f"{'µs per person':<27}", end="")
        for _, run, people in found:
            clock.cell(lambda run=run, people=people: 1e6 * clock.time(run) / people, 1)  # type: ignore[misc]
        print(f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB" if clock.device.type == "cuda" else "")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", help="folder or hub repository; default those in the package")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128, 512])
    parser.add_argument("--images", type=int, default=64, help="of eight people")
    parser.add_argument("--side", type=int, default=8192, help="of the matrices")
    parser.add_argument("--seconds", type=float, default=0.25, help="of one measurement")
    parser.add_argument("--sections", nargs="+", default=SECTIONS, choices=SECTIONS)
    parser.add_argument("--budget", type=float, default=150.0, help="seconds after which nothing more is begun")
    options = parser.parse_args()
    device = torch.device(options.device)
    clock = Clock(device, options.seconds, options.budget)
    weights, large = load_weights(options.weights), options.batches[-3:]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, network {weights.config.backbone} {weights.config.input_hw}")
    peak = rates(clock, options.side)
    flop, moved = cost(weights)
    print(f"{flop / 1e9:.2f} GFLOP and {moved / 1e6:.1f} million numbers moved per crop")
    alone = partial(network_alone, clock, weights, (flop / peak[0], moved / peak[1]))
    library = [Variant(p, "eager") for p in ("float32", "TF32", "bfloat16")]
    planar = [Variant(p, "eager", planar=True) for p in ("TF32", "bfloat16")]
    graphs = [Variant("TF32", "graph"), Variant("bfloat16", "graph"), Variant("bfloat16", "graph", planar=True)]
    compiled = [Variant("bfloat16", "compiled"), Variant("bfloat16", "compiled graph"), Variant("TF32", "compiled")]
    measures = (
        partial(alone, [*library, *planar], options.batches),
        partial(where_time_goes, clock, weights, min(options.images, 16)),
        partial(end_to_end, clock, weights, options.images, large),
        partial(alone, graphs, options.batches),
        partial(alone, compiled, large[:2]),
        partial(alone, [Variant("bfloat16", "eager", search=True)], large[:2]),
    )
    for name, measure in zip(SECTIONS, measures, strict=True):
        if name not in options.sections:
            continue
        try:
            measure()
        except Exception as error:  # one section must not lose the others
            print(f"{type(error).__name__}: {error}")
    print(f"{options.budget - clock.end + time.perf_counter():.0f} s in all")


if __name__ == "__main__":
    main()
