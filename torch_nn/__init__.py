"""The same networks in PyTorch: nn.Module, autograd, torch.optim."""
