"""Where the matrices of a decoder layer read: matrices that share an input are one site."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

See = Callable[["torch.Tensor"], None]


@dataclass(frozen=True, slots=True)
class Site:
    """One input of a layer and the matrices that read it.

    Attributes:
        name: ``attention``, ``attention.out``, ``mlp``, ``mlp.out``, ``experts.3``, ``experts.3.out``,
            ``shared`` or ``shared.out``.
        matrices: name -> weight [out, in]; views, writing changes the model.
        watch: Calls back with every input [tokens, in] until the returned handle is removed.
    """

    name: str
    matrices: Mapping[str, torch.Tensor]
    watch: Callable[[See], Any]


def sites(layer: Any) -> list[Site]:
    """Return the sites of a decoder layer of a transformers model in the order they compute."""
    attention = layer.self_attn
    found = [
        _linear("attention", attention, "q_proj", "k_proj", "v_proj"),
        _linear("attention.out", attention, "o_proj"),
    ]
    if not hasattr(layer.mlp, "experts"):
        return [*found, *_mlp("mlp", layer.mlp)]
    experts = layer.mlp.experts
    for index in range(experts.gate_up_proj.shape[0]):
        found += [_expert(experts, index, False), _expert(experts, index, True)]
    shared = getattr(layer.mlp, "shared_expert", None)
    return found if shared is None else [*found, *_mlp("shared", shared)]


def matrices(layer: Any) -> dict[str, torch.Tensor]:
    """Return all prunable matrices of a layer by name; norms, routers and biases are not among them."""
    return {name: weight for site in sites(layer) for name, weight in site.matrices.items()}


def prunable(layer: Any) -> dict[str, torch.Tensor]:
    """Return the parameters of a layer that hold its matrices by name; of experts [experts, out, in]."""
    places = {weight.data_ptr() for weight in matrices(layer).values()}
    return {name: p for name, p in layer.named_parameters() if p.numel() and p.data_ptr() in places}


def _mlp(name: str, mlp: Any) -> list[Site]:
    prefix = "" if name == "mlp" else f"{name}."
    return [
        _linear(name, mlp, "gate_proj", "up_proj", prefix=prefix),
        _linear(f"{name}.out", mlp, "down_proj", prefix=prefix),
    ]


def _linear(name: str, owner: Any, *names: str, prefix: str = "") -> Site:
    first = getattr(owner, names[0])

    def watch(see: See) -> Any:
        return first.register_forward_pre_hook(lambda module, inputs: see(inputs[0].flatten(0, -2)))

    return Site(name, {prefix + n: getattr(owner, n).weight.data for n in names}, watch)


def _expert(experts: Any, index: int, out: bool) -> Site:
    def watch(see: See) -> Any:
        def hook(module: Any, inputs: Any) -> None:
            hidden, chosen = inputs[0], inputs[1]
            seen = hidden[(chosen == index).any(dim=-1)]
            if out:
                gate, up = (seen @ module.gate_up_proj[index].T).chunk(2, dim=-1)
                seen = module.act_fn(gate) * up
            see(seen)

        return experts.register_forward_pre_hook(hook)

    parameter, what = (experts.down_proj, "down_proj") if out else (experts.gate_up_proj, "gate_up_proj")
    name = f"experts.{index}"
    return Site(f"{name}.out" if out else name, {f"{name}.{what}": parameter.data[index]}, watch)
