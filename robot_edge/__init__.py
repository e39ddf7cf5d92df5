"""The robot: learns the front of the network and an early exit from live frames."""
