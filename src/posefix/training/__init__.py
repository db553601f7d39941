"""Training a refiner: configuration, samples, losses and the loop."""
