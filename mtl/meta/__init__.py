"""Learning to learn: what the inner loop adapts, its gradients, and heads in closed form."""
