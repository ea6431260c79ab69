"""Layer norm (Ba, Kiros & Hinton 2016) and RMS norm (Zhang & Sennrich 2019)."""

from __future__ import annotations

from mpipar.backend import DType
from mpipar.mesh import Mesh
from mpipar.nn.linear import zero_bias
from mpipar.nn.module import Module
from mpipar.tensor import Tensor, layer_norm, ones, rms_norm


class LayerNorm(Module):
    """Over the last dim, which must be whole; gain and bias are Replicate. (…, width) → (…, width)."""

    def __init__(
        self, name: str, width: int, mesh: Mesh, *, eps: float = 1e-5, dtype: DType = "float32"
    ) -> None:
        self.eps = eps
        self.gain = ones((width,), mesh, dtype=dtype, requires_grad=True, name=f"{name}.gain")
        self.bias = zero_bias(name, (width,), mesh, dtype)

    @property
    def weights(self) -> tuple[Tensor, ...]:
        return self.gain, self.bias

    def __call__(self, x: Tensor, *weights: Tensor) -> Tensor:
        """With its own weights, or with others in their place."""
        gain, bias = weights or self.weights
        return layer_norm(x, gain, bias, self.eps)


class RMSNorm(Module):
    """As LayerNorm, without mean and bias: x / √(mean of x² + eps) · gain. (…, width) → (…, width)."""

    def __init__(
        self, name: str, width: int, mesh: Mesh, *, eps: float = 1e-5, dtype: DType = "float32"
    ) -> None:
        self.eps = eps
        self.gain = ones((width,), mesh, dtype=dtype, requires_grad=True, name=f"{name}.gain")

    @property
    def weights(self) -> tuple[Tensor, ...]:
        return (self.gain,)

    def __call__(self, x: Tensor, *weights: Tensor) -> Tensor:
        """With its own weights, or with others in their place."""
        (gain,) = weights or self.weights
        return rms_norm(x, gain, self.eps)
