"""The cloud: learns the rest of the network from quantized activations."""
