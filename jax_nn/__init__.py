"""The same networks in JAX: Flax NNX modules, one pure step, jit and scan."""
