"""What ``encoder.checkpointing`` and ``encoder.compile`` save and cost.

Measured: a pass of MiniLM forth and back over 32 sequences of 64 tokens, without dropout: milliseconds, and the bytes that are
kept for the way back. Against: the plain encoder. For each side also the seconds of its first three passes, each of another
length: what is compiled is compiled there.
MFU: operations that the pass needs (Chowdhery et al. 2022, arXiv:2204.02311, appendix B; a layer that is run again is not
counted twice) over the time and the best throughput of products of matrices here.
How: the sides in turn in one process; with ``--compile 0`` the compiled side is left out, as it takes minutes to start.

    python benchmarks/passes.py --repeats 7
"""

from __future__ import annotations

import time
from typing import Any

import measuring
from measuring import Spread

_SEQUENCES, _TOKENS = 32, 64
_MEGA = 1e6


def batch_of(tokens: int) -> dict[str, Any]:
    """Return random sequences of full length."""
    import torch

    ids = torch.randint(1000, 20_000, (_SEQUENCES, tokens), generator=torch.Generator().manual_seed(tokens))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def run(encoder: Any, tokens: int = _TOKENS) -> float:
    """Return the seconds of a pass forth and back."""
    start = time.perf_counter()
    encoder(batch_of(tokens)).pooled.pow(2).sum().backward()
    encoder.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def kept_bytes(encoder: Any) -> int:
    """Return the bytes that a pass keeps for the way back, weights left out."""
    from torch.autograd.graph import saved_tensors_hooks

    kept: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        held = encoder(batch_of(_TOKENS)).pooled
    size = sum(size for place, size in kept.items() if place not in weights)
    del held
    return size


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--compile", type=int, default=1, help="whether the compiled side is measured")
    parser.set_defaults(repeats=7)
    options = parser.parse_args()
    import torch

    from mtl.config import EncoderConfig
    from mtl.model.encoder import load_encoder
    from mtl.plugins import load_plugins

    torch.set_num_threads(measuring.THREADS)
    throughput = measuring.matmul_throughput()
    place = load_plugins().locate_encoder("minilm")
    configs = {"plain": {}, "checkpointing": {"checkpointing": True}} | ({"compile": {}} if options.compile else {})
    encoders = {
        side: load_encoder(EncoderConfig(name="minilm", dropout=0.0, **more), place).train() for side, more in configs.items()
    }
    kept = {side: kept_bytes(encoder) for side, encoder in encoders.items() if side != "compile"}
    started = {}
    for side, encoder in encoders.items():
        if side == "compile":
            encoder.compile_passes()
        started[side] = sum(run(encoder, tokens) for tokens in (_TOKENS, 48, 33))
    found = measuring.interleave({side: lambda number, e=e: run(e) for side, e in encoders.items()}, options.repeats)
    config = encoders["plain"].backbone.config
    needed = measuring.training_flops(config, _SEQUENCES * _TOKENS, _SEQUENCES * _TOKENS**2)
    rows = []
    for side, seconds in found.items():
        ratio = Spread.of([own / plain for own, plain in zip(seconds, found["plain"], strict=True)])
        held = f"{kept[side] / _MEGA:,.0f}" if side in kept else "–"
        times = Spread.of([1000 * s for s in seconds])
        used = Spread.of([measuring.utilisation(needed, s, throughput) for s in seconds])
        rows.append([side, times.show(",.0f"), ratio.show(), f"{used.median:.0f}", held, f"{started[side]:,.1f}"])
    columns = ["encoder", "ms forth and back", "× plain", "MFU, %", "kept for the way back, MB", "first three passes, s"]
    figures = {"seconds": found, "kept": kept, "started": started, "needed": needed, "throughput": throughput}
    measuring.publish("passes", options, measuring.table(columns, rows), figures)


if __name__ == "__main__":
    main()
